"""Outcomes of a sweep as an SVG picture: latency against throughput, text that any browser shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from dooly.simulate.explore import Outcome

__all__ = ["frontier_chart"]

_LEFT, _TOP, _WIDTH, _HEIGHT = 80, 50, 560, 360


def frontier_chart(title: str, outcomes: Sequence[Outcome], best: Sequence[Outcome]) -> str:
    """TTFT (log scale) to the right, output tokens per second and device upwards; settings show as tooltips.

    Args:
        title: above the picture.
        outcomes: all, at least one: hollow where the targets are missed.
        best: the frontier among them, filled and labelled with its cost where there is one.
    """
    low = math.floor(math.log10(min(outcome.ttft_ms for outcome in outcomes)))
    high = max(math.ceil(math.log10(max(outcome.ttft_ms for outcome in outcomes))), low + 1)
    most = 1.05 * max(outcome.tokens_per_s_per_device for outcome in outcomes)

    def place(ttft_ms: float, tokens: float) -> tuple[float, float]:
        x = _LEFT + _WIDTH * (math.log10(ttft_ms) - low) / (high - low)
        return x, _TOP + _HEIGHT * (1 - tokens / most)

    width, height = _LEFT + _WIDTH + 120, _TOP + _HEIGHT + 60
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="100%" height="100%" fill="white"/><title>{escape(title)}</title>',
        f'<text x="10" y="24" font-size="15" font-weight="bold">{escape(title)}</text>',
        f'<text x="{_LEFT + _WIDTH / 2}" y="{height - 14}" text-anchor="middle">time to first token (ms)</text>',
        f'<text transform="translate(18 {_TOP + _HEIGHT / 2}) rotate(-90)" text-anchor="middle">'
        "output tokens/s per device</text>",
    ]
    for power in range(low, high + 1):
        x, bottom = place(10.0**power, 0)
        parts.append(f'<line x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{bottom:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18:.1f}" text-anchor="middle">{10.0**power:g}</text>')
    for quarter in range(5):
        tokens = most * quarter / 4
        _, y = place(10.0**low, tokens)
        parts.append(f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{_LEFT + _WIDTH}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tokens:,.0f}</text>')
    chosen = {id(outcome) for outcome in best}
    for outcome in outcomes:
        x, y = place(outcome.ttft_ms, outcome.tokens_per_s_per_device)
        fill = "#08519c" if id(outcome) in chosen else "#9ecae1" if outcome.meets else "none"
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{fill}" stroke="#08519c">'
            f"<title>{escape(_text(outcome))}</title></circle>"
        )
        if id(outcome) in chosen and outcome.cost is not None:
            parts.append(f'<text x="{x + 8:.1f}" y="{y + 4:.1f}">{outcome.cost:.3g}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _text(outcome: Outcome) -> str:
    tpot = "-" if outcome.tpot_ms is None else f"{outcome.tpot_ms:.1f}"
    return (
        f"{outcome.device}, TP {outcome.tp}, {outcome.backend}: {outcome.requests_per_s:g} requests/s, "
        f"{outcome.max_num_seqs} requests and {outcome.max_num_batched_tokens} tokens a step, "
        f"{outcome.num_blocks} blocks; TTFT {outcome.ttft_ms:.1f} ms, TPOT {tpot} ms"
    )
