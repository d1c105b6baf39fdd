"""The ledger of GPU-seconds: what measuring models one by one on a fixed grid costs, and what the adaptive sweep cost.

The fixed grid is Vidur's, up to 4,096 tokens and 128 requests, for one tensor-parallel size of each model (Vidur takes
four).  Part of it was measured; the rest is counted points times the time of one measured point of the same kind.  The
seconds of the sweep are those that were spent, with set-up, compilation and failed points.  Whatever had to be chosen
was chosen in favour of the fixed grid.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dooly.database import Measurement, Record, Status
from dooly.executor.plan.sweep import Ranges, coarse_points
from dooly.hardware.backends import backend_of
from dooly.ir import Kind, Operation, attributes

__all__ = ["FIXED_GRID", "Ledger", "ModelRow", "PointTime", "by_operation", "make_ledger", "with_backends"]

FIXED_GRID = Ranges(max_tokens=4096, max_requests=128, max_context=4096, sweep="vidur")


@dataclass(frozen=True)
class PointTime:
    """Seconds that one point of a kind of operation takes, set-up and compilation of the operation apart.

    Attributes:
        seconds: median of measured points of the fixed grid; where there are none, lower quartile of the sweep's, whose
            points are so few that compilation falls on most of them.
        source: ``grid`` or ``sweep``.
        points: how many of them.
    """

    seconds: float
    source: str
    points: int


@dataclass(frozen=True)
class ModelRow:
    """The cost of one model; models before it in the ledger were measured before.

    Attributes:
        operations: distinct operations of the model that were measured, one of attention for each backend.
        new: those that no model before it has.
        unmeasured: operations of the model without any measured point; in none of the sums.
        grid_points: of the fixed grid, over all its operations.
        measured_s, extrapolated_s: seconds of the fixed grid over all its operations: measured, and counted.
        deduplicated_s: seconds of the fixed grid over its new operations.
        sweep_points, sweep_s: what the adaptive sweep took for its new operations.
    """

    model: str
    tp: int
    operations: int
    new: int
    unmeasured: int
    grid_points: int
    measured_s: float
    extrapolated_s: float
    deduplicated_s: float
    sweep_points: int
    sweep_s: float

    @property
    def grid_s(self) -> float:
        """Seconds of the fixed grid for this model alone."""
        return self.measured_s + self.extrapolated_s


@dataclass(frozen=True)
class Ledger:
    """All models, in a stated order.

    Attributes:
        point_times: by kind of operation.
        elsewhere_s: seconds of the sweep that went into operations that none of these models has.
    """

    rows: tuple[ModelRow, ...]
    point_times: Mapping[Kind, PointTime]
    elsewhere_s: float

    @property
    def grid_s(self) -> float:
        """Seconds of the fixed grid, each model alone."""
        return sum(row.grid_s for row in self.rows)

    @property
    def deduplicated_s(self) -> float:
        """Seconds of the fixed grid, each operation once."""
        return sum(row.deduplicated_s for row in self.rows)

    @property
    def sweep_s(self) -> float:
        """Seconds that the adaptive sweep took for the operations of these models."""
        return sum(row.sweep_s for row in self.rows)


def with_backends(operations: Iterable[Operation], backends: Sequence[str]) -> tuple[Operation, ...]:
    """The operations, those of attention once for each backend."""
    found: list[Operation] = []
    for operation in operations:
        if operation.target != "attention":
            found.append(operation)
            continue
        for backend in backends:
            attrs = dict(operation.attrs) | {"backend": backend}
            if not backend_of(backend).tiles_planned_once:
                attrs.pop("planned_per_layer", None)
            found.append(replace(operation, attrs=attributes(**attrs)))
    return tuple(found)


def by_operation(records: Iterable[Record]) -> dict[str, list[Measurement]]:
    """Points by signature of their operation, whatever became of them."""
    found: dict[str, list[Measurement]] = {}
    for record in records:
        found.setdefault(record.operation.signature, []).append(record.measurement)
    return found


def make_ledger(
    models: Iterable[tuple[str, int, Sequence[Operation]]],
    sweep: Mapping[str, Sequence[Measurement]],
    grid: Mapping[str, Sequence[Measurement]],
) -> Ledger:
    """Compare the two ways.

    Args:
        models: (name, tensor-parallel size, operations) of each, in the order in which they are measured.
        sweep: points that the adaptive sweep took, by signature; operations without a measured one are left out on
            both sides.
        grid: measured points of the fixed grid, by signature.
    """
    models = list(models)
    kinds = {operation.signature: operation.kind for _, _, operations in models for operation in operations}
    times = _point_times(kinds, sweep, grid)
    seen: set[str] = set()
    rows: list[ModelRow] = []
    for name, tp, operations in models:
        able = [each for each in operations if any(m.status is Status.OK for m in sweep.get(each.signature, ()))]
        new = [each for each in able if each.signature not in seen]
        costs = {each.signature: _grid_cost(each, grid, times) for each in able}
        taken = [m for each in new for m in sweep[each.signature]]
        rows.append(
            ModelRow(
                model=name,
                tp=tp,
                operations=len(able),
                new=len(new),
                unmeasured=len(operations) - len(able),
                grid_points=sum(points for points, _, _ in costs.values()),
                measured_s=sum(measured for _, measured, _ in costs.values()),
                extrapolated_s=sum(counted for _, _, counted in costs.values()),
                deduplicated_s=sum(sum(costs[each.signature][1:]) for each in new),
                sweep_points=sum(m.status is Status.OK for m in taken),
                sweep_s=sum(m.cost_s for m in taken),
            )
        )
        seen |= {each.signature for each in new}
    elsewhere = sum(m.cost_s for signature, points in sweep.items() if signature not in seen for m in points)
    return Ledger(tuple(rows), times, elsewhere)


def _point_times(
    kinds: Mapping[str, Kind], sweep: Mapping[str, Sequence[Measurement]], grid: Mapping[str, Sequence[Measurement]]
) -> dict[Kind, PointTime]:
    found: dict[Kind, PointTime] = {}
    for kind in dict.fromkeys(kinds.values()):
        for source, points, quantile in (("grid", grid, 0.5), ("sweep", sweep, 0.25)):
            measured = (points.get(signature, ()) for signature, each in kinds.items() if each is kind)
            seconds = [m.cost_s for each in measured for m in each if m.status is Status.OK]
            if seconds:
                found[kind] = PointTime(float(np.quantile(seconds, quantile)), source, len(seconds))
                break
    return found


def _grid_cost(
    operation: Operation, grid: Mapping[str, Sequence[Measurement]], times: Mapping[Kind, PointTime]
) -> tuple[int, float, float]:
    """Points of the fixed grid, seconds of the measured ones, and seconds that the others would take."""
    wanted = set(coarse_points(operation, FIXED_GRID))
    measured = [m for m in grid.get(operation.signature, ()) if m.status is Status.OK and m.point in wanted]
    each_s = statistics.median(m.cost_s for m in measured) if measured else times[operation.kind].seconds
    return len(wanted), sum(m.cost_s for m in measured), (len(wanted) - len(measured)) * each_s
