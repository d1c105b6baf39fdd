"""A formula as an SVG picture: what was measured, what was fitted, what the datasheet allows."""

import math
from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from dooly.fit.format import equation
from dooly.fit.formula import Formula
from dooly.fit.observation import Observation
from dooly.fit.roofline import roofline_us
from dooly.fit.target import Subject
from dooly.hardware.gpus import PlatformSpec

__all__ = ["formula_chart"]

Column = NDArray[np.float64]

_LEFT, _TOP, _WIDTH, _HEIGHT = 80, 64, 600, 360
_SAMPLES = 200


class _Frame:
    """Two logarithmic axes over the given values."""

    def __init__(self, xs: Sequence[float], ys: Sequence[float]) -> None:
        self.x, self.y = _decades(xs), _decades(ys)

    def place(self, x: float, y: float) -> tuple[float, float]:
        across = (math.log10(x) - self.x[0]) / (self.x[1] - self.x[0])
        up = (math.log10(y) - self.y[0]) / (self.y[1] - self.y[0])
        return _LEFT + _WIDTH * across, _TOP + _HEIGHT * (1 - up)

    def grid(self) -> list[str]:
        parts: list[str] = []
        bottom, right = _TOP + _HEIGHT, _LEFT + _WIDTH
        for power in range(self.x[0], self.x[1] + 1):
            x, _ = self.place(10.0**power, 10.0 ** self.y[0])
            parts.append(f'<line x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{bottom}" stroke="#ddd"/>')
            parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{10.0**power:g}</text>')
        for power in range(self.y[0], self.y[1] + 1):
            _, y = self.place(10.0 ** self.x[0], 10.0**power)
            parts.append(f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="#ddd"/>')
            parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{10.0**power:g}</text>')
        return parts

    def line(self, xs: Column, ys: Column, style: str) -> str:
        points = " ".join("{:.1f},{:.1f}".format(*self.place(x, y)) for x, y in zip(xs, ys, strict=True))
        return f'<polyline points="{points}" fill="none" {style}/>'


def formula_chart(
    formula: Formula, subject: Subject, observations: Sequence[Observation], datasheet: PlatformSpec | None = None
) -> str:
    """Latency upwards; to the right the size, or where several sizes decide the time that the formula gives.

    Measured points are dots with the point as tooltip, the formula is a line, the roofline is dashed (or, where several
    sizes decide, hollow squares).

    Raises:
        FitError: a point does not belong to the operation.
    """
    columns = subject.columns(observations)
    measured = np.array([each.latency_us for each in observations])
    fitted, _ = formula.predict(columns)
    axis = subject.single
    xs = fitted if axis is None else columns[axis]
    roof = None if datasheet is None else np.maximum(roofline_us(subject, columns, datasheet), 1e-3)
    frame = _Frame(xs.tolist(), [*measured, *fitted, *([] if roof is None else roof)])
    title = f"{formula.name}: t_us = {equation(formula)}"
    width, height = _LEFT + _WIDTH + 30, _TOP + _HEIGHT + 60
    label = "fitted (us)" if axis is None else axis
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="100%" height="100%" fill="white"/><title>{escape(title)}</title>',
        f'<text x="10" y="20" font-weight="bold">{escape(_brief(title))}</text>',
        f'<text x="10" y="40">dots: measured; line: fitted{"" if roof is None else "; dashed or squares: roofline"}; '
        f"held-out error {formula.held.mape:.1%}</text>",
        *frame.grid(),
        f'<text x="{_LEFT + _WIDTH / 2}" y="{height - 14}" text-anchor="middle">{label}</text>',
        f'<text transform="translate(18 {_TOP + _HEIGHT / 2}) rotate(-90)" text-anchor="middle">latency (us)</text>',
    ]
    blue, grey = 'stroke="#08519c" stroke-width="1.5"', 'stroke="#888" stroke-dasharray="5 4"'
    if axis is None:
        ends = np.array([fitted.min(), fitted.max()])
        parts.append(frame.line(ends, ends, blue))
        for x, y in zip(xs.tolist(), [] if roof is None else roof.tolist(), strict=roof is not None):
            left, top = frame.place(x, y)
            parts.append(f'<rect x="{left - 2:.1f}" y="{top - 2:.1f}" width="4" height="4" fill="none" stroke="#888"/>')
    else:
        sizes = np.geomspace(xs.min(), xs.max(), _SAMPLES)
        parts.append(frame.line(sizes, formula.predict({axis: sizes})[0], blue))
        if datasheet is not None:
            parts.append(frame.line(sizes, np.maximum(roofline_us(subject, {axis: sizes}, datasheet), 1e-3), grey))
    for x, y, each in zip(xs.tolist(), measured.tolist(), observations, strict=True):
        left, top = frame.place(x, y)
        parts.append(
            f'<circle cx="{left:.1f}" cy="{top:.1f}" r="3.5" fill="#d94801">'
            f"<title>{escape(each.point)}: {y:.4g} us</title></circle>"
        )
    return "\n".join([*parts, "</svg>\n"])


def _decades(values: Sequence[float]) -> tuple[int, int]:
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)


def _brief(title: str) -> str:
    return title if len(title) <= 100 else title[:97] + "..."
