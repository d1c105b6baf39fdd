"""A sharing matrix as an SVG picture: text that any browser shows and that diffs, without a plotting library."""

from collections.abc import Sequence
from html import escape

__all__ = ["heat_map"]

_CELL, _TEXT, _GAP = 34, 7.2, 8
_LIGHT, _DARK = (247, 251, 255), (8, 48, 107)


def heat_map(title: str, names: Sequence[str], matrix: Sequence[Sequence[float]]) -> str:
    """The matrix as cells of one hue, each with its percentage.

    Args:
        title: what the shares are of.
        names: of rows and columns, N of them.
        matrix: N rows of N shares, 0 to 1: how much of the row's work the column has.

    Raises:
        ValueError: the matrix is not square, or not as wide as there are names.
    """
    if [len(row) for row in matrix] != [len(names)] * len(names):
        raise ValueError(f"a heat map of {len(names)} names needs as many rows and columns")
    margin = _TEXT * max(map(len, names), default=0) + 3 * _GAP
    left, top = margin, margin + 52
    width, height = left + _CELL * len(names) + margin / 2, top + _CELL * len(names) + 2 * _GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="sans-serif" font-size="12">',
        f'<rect width="100%" height="100%" fill="white"/><title>{escape(title)}</title>',
        f'<text x="{_GAP}" y="20" font-size="15" font-weight="bold">{escape(title)}</text>',
        f'<text x="{_GAP}" y="38" fill="#555">percent of the row that the model of the column has too</text>',
    ]
    for index, name in enumerate(names):
        middle = _CELL * (index + 0.5)
        x, y = left + middle, top - _GAP
        parts.append(
            f'<text x="{left - _GAP:.1f}" y="{top + middle + 4:.1f}" text-anchor="end">{escape(name)}</text>'
            f'<text transform="translate({x + 4:.1f} {y:.1f}) rotate(-60)">{escape(name)}</text>'
        )
    for row, shares in enumerate(matrix):
        parts += [_cell(left + _CELL * column, top + _CELL * row, share) for column, share in enumerate(shares)]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _cell(x: float, y: float, share: float) -> str:
    colour = ",".join(str(round(light + (dark - light) * share)) for light, dark in zip(_LIGHT, _DARK, strict=True))
    ink = "white" if share > 0.5 else "black" if share else "#bbb"
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{_CELL}" height="{_CELL}" fill="rgb({colour})" stroke="white"/>'
        f'<text x="{x + _CELL / 2:.1f}" y="{y + _CELL / 2 + 4:.1f}" text-anchor="middle" fill="{ink}">'
        f"{100 * share:.0f}</text>"
    )
