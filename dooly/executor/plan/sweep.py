"""Which points to measure: a coarse logarithmic grid first, then points where the curve is known worst."""

import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from dooly.database import Measurement, Point
from dooly.errors import ProfileError
from dooly.executor.plan import vidur_grid
from dooly.executor.plan.grid import attention_batches, ends_first, geometric, product_rows
from dooly.executor.runners.moe import activated_bounds, fullest_bounds
from dooly.ir import Kind, Operation
from dooly.ir.expr import Expr

__all__ = ["SWEEPS", "ErrorModel", "Ranges", "coarse_points", "expected_refinements", "next_point", "rows_limit"]

ErrorModel: TypeAlias = Callable[[Operation, Sequence[Measurement]], Mapping[Point, float] | None]
"""Relative held-out error of the caller's formula at measured points; None where it has no formula yet."""

SWEEPS = ("adaptive", "skew", "vidur")

_CANDIDATES = 96
_EXTRA = {Kind.GEMM: 6, Kind.ATTENTION: 12, Kind.MOE: 6}
_EXTRA_DEFAULT = 5
_TOLERANCE = 0.03
_DECODE_ONLY, _DECODES = 0.5, 0.7
"""Share of random batches in which all requests decode, and share of the others' requests that do."""


@dataclass(frozen=True)
class Ranges:
    """Ranges of the batches to expect.

    Fields:
        max_tokens: most tokens of one step.
        max_requests: most requests of one step.
        max_context: longest context of one request, prompt and output.
        sweep: ``adaptive``: a coarse grid, then points where the curve is known worst; ``skew``: experts that are hit
            unevenly, too; ``vidur``: Vidur's fixed grid.

    Raises:
        ProfileError: a limit is below 1, a step cannot hold one token of every request, or the sweep is unknown.
    """

    max_tokens: int = 512
    max_requests: int = 16
    max_context: int = 2048
    sweep: str = "adaptive"

    def __post_init__(self) -> None:
        for name in ("max_tokens", "max_requests", "max_context"):
            if getattr(self, name) < 1:
                raise ProfileError(f"{name.replace('_', '-')} is {getattr(self, name)}, expected at least 1")
        if self.max_requests > self.max_tokens:
            raise ProfileError(
                f"max-requests is {self.max_requests} but a step holds only max-tokens = {self.max_tokens}; raise it"
            )
        if self.sweep not in SWEEPS:
            raise ProfileError(f"unknown sweep {self.sweep!r}; known: {', '.join(SWEEPS)}")


def rows_limit(operation: Operation, ranges: Ranges) -> int:
    """Most rows of an operation over T: rows of logits where each use says so, tokens otherwise."""
    bound_to_logits = [("T", "L") in use.bind for use in operation.uses]
    return ranges.max_requests if bound_to_logits and all(bound_to_logits) else ranges.max_tokens


def coarse_points(operation: Operation, ranges: Ranges) -> tuple[Point, ...]:
    """The grid that an operation needs before a formula makes sense, most telling points first."""
    if not operation.axes:  # work on weights alone: the same in every step
        return (Point.of(T=1),)
    if ranges.sweep == "vidur":
        return _fixed_grid(operation, ranges)
    if operation.kind.stateful:
        points = attention_batches(ranges.max_tokens, ranges.max_requests, ranges.max_context)
    elif operation.kind is Kind.MOE:
        even = tuple(_moe_grid(operation, rows_limit(operation, ranges)))
        points = (*even, *(_skewed(operation, even) if ranges.sweep == "skew" else ()))
    else:
        points = _axes_grid(operation, ranges)
    return tuple(dict.fromkeys(points))


def _fixed_grid(operation: Operation, ranges: Ranges) -> tuple[Point, ...]:
    if operation.kind.stateful:
        return vidur_grid.attention_points(ranges.max_context)
    limit = rows_limit(operation, ranges)
    rows = vidur_grid.token_counts(limit)
    if operation.kind is Kind.MOE:
        return tuple(Point.of(T=tokens, A=_expected_activated(operation, tokens)) for tokens in rows)
    return tuple(_of_tokens(operation, tokens, ranges) for tokens in rows)


def _of_tokens(operation: Operation, tokens: int, ranges: Ranges) -> Point:
    rows = {"L": min(tokens, ranges.max_requests)} if "T" in operation.axes else {}
    return Point.of(**(dict.fromkeys(operation.axes, tokens) | {n: v for n, v in rows.items() if n in operation.axes}))


def _expected_activated(operation: Operation, tokens: int) -> int:
    """Experts that `tokens` tokens activate when the router spreads them evenly."""
    experts, top_k = _moe_sizes(operation)
    low, high = activated_bounds(tokens, experts, top_k)
    return min(high, max(low, round(experts * (1.0 - (1.0 - top_k / experts) ** tokens))))


def _axes_grid(operation: Operation, ranges: Ranges) -> Iterable[Point]:
    axes = operation.axes
    limit = rows_limit(operation, ranges)
    rows = ends_first(product_rows(limit, operation.signature) if operation.kind is Kind.GEMM else geometric(limit))
    if axes == ("L", "T"):
        pairs = ((t, logits) for t in rows for logits in (min(t, ranges.max_requests), 1))
        return [Point.of(L=logits, T=t) for t, logits in pairs]
    return [Point.of(**dict.fromkeys(axes, t)) for t in rows]


def _moe_grid(operation: Operation, limit: int) -> Iterable[Point]:
    """Experts as an even router hits them, at every doubling: their kernels change tiles with the tokens."""
    experts, top_k = _moe_sizes(operation)
    for tokens in ends_first(geometric(limit, step=2)):
        yield Point.of(T=tokens, A=_expected_activated(operation, tokens))
    for tokens in (max(1, limit // 16), limit):
        for activated in activated_bounds(tokens, experts, top_k):
            yield Point.of(T=tokens, A=activated)


def _skewed(operation: Operation, even: Sequence[Point]) -> Iterable[Point]:
    """The same tokens and experts, of which the fullest gets twice and four times its share, and as much as it can."""
    _, top_k = _moe_sizes(operation)
    for tokens, activated in ((point.axes["T"], point.axes["A"]) for point in even):
        share, most = fullest_bounds(tokens, top_k, activated)
        for fullest in sorted({min(2 * share, most), min(4 * share, most), most}):
            if fullest > share and activated > top_k:
                yield Point.of(T=tokens, A=activated, M=fullest)


def _moe_sizes(operation: Operation) -> tuple[int, int]:
    experts, top_k = operation.attr("experts"), operation.attr("top_k")
    if not isinstance(experts, Expr) or not isinstance(top_k, Expr):
        raise ProfileError(f"{operation.name} does not say how many experts it has")
    return int(experts), int(top_k)


# -- refinement ------------------------------------------------------------------------------------------------------


def expected_refinements(operation: Operation) -> float:
    """How many points between those of the grid an operation tends to need: half of what it may have."""
    return _EXTRA.get(operation.kind, _EXTRA_DEFAULT) / 2.0


def next_point(
    operation: Operation, measured: Sequence[Measurement], ranges: Ranges, error: ErrorModel | None = None
) -> Point | None:
    """The point worth measuring next once the grid is there; None when the curve is known well enough.

    Args:
        measured: all points that were taken, of which those beyond the grid count against the allowance.
        error: the caller's held-out error; by default that of interpolating between neighbours.
    """
    if ranges.sweep == "vidur":
        return None
    measured = [measurement for measurement in measured if not measurement.point.skewed]
    have = {measurement.point for measurement in measured}
    beyond = have - set(coarse_points(operation, ranges))
    if len(beyond) >= _EXTRA.get(operation.kind, _EXTRA_DEFAULT):
        return None
    errors = error(operation, measured) if error is not None else None
    if errors is not None and max(errors.values(), default=math.inf) < _TOLERANCE:
        return None
    if len(operation.axes) == 1 and operation.kind is not Kind.MOE:
        limit = rows_limit(operation, ranges)
        return _between_neighbours(operation.axes[0], measured, errors, limit, operation.signature)
    return _far_from_all(operation, have, ranges)


def _between_neighbours(
    axis: str, measured: Sequence[Measurement], errors: Mapping[Point, float] | None, limit: int, salt: str
) -> Point | None:
    """Near the middle, on a logarithmic axis, of the gap whose ends are predicted worst.

    How near depends on `salt`: operations that run the same kernels then show them at different sizes.
    """
    inside = [measurement for measurement in measured if measurement.point.axes[axis] <= limit]
    ordered = sorted(inside, key=lambda measurement: measurement.point.axes[axis])
    sizes = [measurement.point.axes[axis] for measurement in ordered]
    wrong = [
        (errors or {}).get(measurement.point, 0.0) if errors is not None else _left_out_error(sizes, ordered, index)
        for index, measurement in enumerate(ordered)
    ]
    if max(wrong, default=0.0) < _TOLERANCE:
        return None
    best: tuple[float, int] | None = None
    for index in range(len(sizes) - 1):
        part = random.Random(f"{salt}/{index}/{len(sizes)}").uniform(0.35, 0.65)
        middle = _round(sizes[index] ** (1.0 - part) * sizes[index + 1] ** part)
        if sizes[index] < middle < sizes[index + 1]:
            score = max(wrong[index], wrong[index + 1]) * math.log(sizes[index + 1] / sizes[index])
            best = max(best or (score, middle), (score, middle))
    return None if best is None or best[0] <= 0.0 else Point.of(**{axis: best[1]})


def _left_out_error(sizes: Sequence[int], measured: Sequence[Measurement], index: int) -> float:
    """How far a point lies from the straight line, in logarithms, between its neighbours."""
    if not 0 < index < len(sizes) - 1:
        return 0.0
    (x0, x1, x2), (y0, y1, y2) = (
        [math.log(sizes[i]) for i in range(index - 1, index + 2)],
        [math.log(measured[i].latency_us) for i in range(index - 1, index + 2)],
    )
    return abs(math.expm1(y0 + (y2 - y0) * (x1 - x0) / (x2 - x0) - y1))


def _round(size: float) -> int:
    """Sizes above 64 to multiples of 8, as batches of tokens tend to be."""
    return round(size / 8) * 8 if size > 64 else round(size)


def _far_from_all(operation: Operation, have: Iterable[Point], ranges: Ranges) -> Point | None:
    """Return the batch, of many random ones, that is farthest in logarithmic axes from every point taken."""
    taken = list(have)
    source = random.Random(f"{operation.signature}/{len(taken)}")
    candidates = [_random_point(operation, ranges, source) for _ in range(_CANDIDATES)]

    def distance(point: Point) -> float:
        here = point.axes
        return min(
            (sum(math.log((here[name] + 1) / (n + 1)) ** 2 for name, n in other.axes.items()) for other in taken),
            default=math.inf,
        )

    chosen = max(candidates, key=distance)
    return chosen if distance(chosen) > 0.0 else None


def _random_point(operation: Operation, ranges: Ranges, source: random.Random) -> Point:
    def log_uniform(limit: int) -> int:
        return round(math.exp(source.uniform(0.0, math.log(max(1, limit)))))

    if operation.kind.stateful:
        count = log_uniform(ranges.max_requests)
        decodes = 1.0 if source.random() < _DECODE_ONLY else _DECODES
        left = ranges.max_tokens
        requests: list[tuple[int, int]] = []
        for index in range(count):
            reserve = count - index - 1
            new = 1 if source.random() < decodes else log_uniform(min(left - reserve, ranges.max_context))
            requests.append((new, source.randrange(ranges.max_context - new + 1)))
            left -= new
        return Point.of_requests(requests)
    tokens = log_uniform(rows_limit(operation, ranges))
    if operation.kind is Kind.MOE:
        return Point.of(T=tokens, A=source.randint(*activated_bounds(tokens, *_moe_sizes(operation))))
    sizes = dict.fromkeys(operation.axes, tokens)
    if "L" in sizes:
        sizes["L"] = log_uniform(min(tokens, ranges.max_requests))
    return Point.of(**sizes)
