"""How good formulas are that were fitted on a fixed grid, beside those of the adaptive sweep, at the same points."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from dooly.database import Measurement, Status
from dooly.evaluate.holdout import Unseen, judge, unseen_errors
from dooly.fit import Observation, fit
from dooly.ir import Operation

__all__ = ["Track", "grid_errors"]

_ENOUGH = 100
"""Measured points of the grid from which on its formula says something of the whole grid."""

Points = Mapping[str, Sequence[Measurement]]

Track = Callable[[Sequence[Operation]], Iterable[Operation]]
"""The same operations, one after the other; a caller may note how far the work is."""


def grid_errors(
    operations: Sequence[Operation], sweep: Points, grid: Points, held_out: Points, track: Track = iter
) -> list[dict[str, Any]]:
    """A row for each operation that was measured both ways; one over all their held-out points, one over those within
    the sizes of the grid.

    Args:
        sweep, grid, held_out: points by signature; held-out ones were drawn at random, and count where the sweep has
            not measured the same.
        track: called with the operations that are fitted.
    """
    both = [
        each
        for each in operations
        if each.signature in sweep and len(_measured(grid, each)) >= _ENOUGH and _unseen(held_out, sweep, each)
    ]
    rows: list[dict[str, Any]] = []
    all_of_grid: list[Unseen] = []
    all_of_sweep: list[Unseen] = []
    for operation in track(both):
        on_grid, swept = _measured(grid, operation), _measured(sweep, operation)
        unseen = _unseen(held_out, sweep, operation)
        by_grid, by_sweep = fit(operation, on_grid), fit(operation, swept)
        errors = unseen_errors(operation, by_grid, unseen), unseen_errors(operation, by_sweep, unseen)
        rows.append(
            {
                "operation": operation.name,
                "kind": operation.kind.value,
                **_row(*errors),
                "grid_points": len(on_grid),
                "sweep_points": len(swept),
                "grid_own_percent": 100 * by_grid.held.mape,
                "sweep_on_grid_percent": 100
                * judge(unseen_errors(operation, by_sweep, _unseen(grid, sweep, operation))).mean,
            }
        )
        all_of_grid += errors[0]
        all_of_sweep += errors[1]
    if rows:
        points = {name: sum(row[name] for row in rows) for name in ("grid_points", "sweep_points")}
        own = {"grid_own_percent": None, "sweep_on_grid_percent": None}
        pairs = list(zip(all_of_grid, all_of_sweep, strict=True))
        within = [pair for pair in pairs if not pair[0].extrapolated]
        for which, counted in (("all", pairs), ("within the grid", within)):
            if counted:
                rows.append({"operation": which, "kind": "", **_row(*zip(*counted, strict=True)), **points, **own})
    return rows


def _measured(points: Points, operation: Operation) -> list[Observation]:
    return [
        Observation.of(each)
        for each in points.get(operation.signature, ())
        if each.status is Status.OK and not each.point.skewed
    ]


def _unseen(points: Points, sweep: Points, operation: Operation) -> list[Observation]:
    """Points that a formula of the sweep was not fitted to."""
    fitted = {each.point for each in _measured(sweep, operation)}
    return [each for each in _measured(points, operation) if each.point not in fitted]


def _row(of_grid: Sequence[Unseen], of_sweep: Sequence[Unseen]) -> dict[str, Any]:
    grid, sweep = judge(of_grid), judge(of_sweep)
    return {
        "held_out_points": grid.points,
        "outside_grid": grid.extrapolated,
        "grid_median_percent": 100 * grid.median,
        "grid_mean_percent": 100 * grid.mean,
        "sweep_median_percent": 100 * sweep.median,
        "sweep_mean_percent": 100 * sweep.mean,
    }
