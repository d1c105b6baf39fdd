"""The plan: what is missing, what it will cost, and what reuse saves, computed before anything is measured."""

from collections.abc import Sequence
from dataclasses import dataclass

from dooly.database import Environment, Measurement, Point, PointSource, Status
from dooly.errors import ProfileError
from dooly.executor.host.measure import host_cost_s
from dooly.executor.plan.cost import CostModel
from dooly.executor.plan.sweep import ErrorModel, Ranges, coarse_points, expected_refinements, next_point
from dooly.executor.runners import why_not
from dooly.executor.timing.cpu import Precision
from dooly.hardware.environment import environment_for
from dooly.hardware.machine import Machine
from dooly.ir import Operation

__all__ = ["Plan", "Row", "make_plan"]


@dataclass(frozen=True)
class Row:
    """One operation of the plan.

    Fields:
        environment: where its points are stored.
        missing: points of the grid to take, most telling first.
        refine: whether the grid is complete but the curve needs points in between.
        covered: points that the database holds already.
        failed: points that failed or were skipped before and are left alone.
        share: part of the predicted time of typical steps, 0 to 1.
        estimate_s: expected wall seconds of measuring.
        saved_s: wall seconds that taking the covered points cost.
        skip: why nothing here can measure it; None if something can.
    """

    operation: Operation
    environment: Environment
    missing: tuple[Point, ...]
    refine: bool
    covered: int
    failed: int
    share: float
    estimate_s: float
    saved_s: float
    skip: str | None

    @property
    def todo(self) -> bool:
        """Whether anything is left to measure."""
        return self.skip is None and (bool(self.missing) or self.refine)


@dataclass(frozen=True)
class Plan:
    """Rows in the order of measuring: largest share of predicted step time per second of measuring first.

    Fields:
        host_s: expected wall seconds of what is unknown of this machine's and engine's host time; 0 if nothing is.
    """

    rows: tuple[Row, ...]
    ranges: Ranges
    machine: Machine
    host_s: float

    @property
    def points_missing(self) -> int:
        """Grid points to take."""
        return sum(len(row.missing) for row in self.rows if row.skip is None)

    @property
    def points_covered(self) -> int:
        """Points that need not be taken again."""
        return sum(row.covered for row in self.rows)

    @property
    def estimate_s(self) -> float:
        """Expected wall seconds of measuring everything, host time included, start of the engine not."""
        return sum(row.estimate_s for row in self.rows) + self.host_s

    @property
    def saved_s(self) -> float:
        """Wall seconds that the covered points cost when they were taken."""
        return sum(row.saved_s for row in self.rows)

    @property
    def host_missing(self) -> bool:
        """Whether some of the host time of this machine and engine is still unknown."""
        return self.host_s > 0.0

    @property
    def done(self) -> bool:
        """Whether nothing is left to measure."""
        return not self.host_missing and not any(row.todo for row in self.rows)


def make_plan(
    operations: Sequence[Operation],
    database: PointSource,
    machine: Machine,
    ranges: Ranges,
    *,
    precision: Precision | None = None,
    error: ErrorModel | None = None,
    retry_failed: bool = False,
) -> Plan:
    """Compare what the operations need over `ranges` with what the database holds for this machine.

    Args:
        error: held-out error of the caller's formulas, to decide about points between those of the grid.
        retry_failed: count failed and skipped points as missing.

    Raises:
        ProfileError: no operations are given.
        DatabaseError: the database cannot be read.
    """
    if not operations:
        raise ProfileError("no operations to measure; lower a model first")
    precision = precision or Precision.usual(machine.torch_device)
    costs = CostModel(machine)
    stored: dict[str, list[Measurement]] = {}
    for operation in operations:
        stored[operation.signature] = database.points(
            operation.signature, environment_for(operation, machine), status=None
        )
        costs.learn(operation, _ok(stored[operation.signature]))
    reasons = {operation.signature: why_not(operation, machine) for operation in operations}
    weights = {
        operation.signature: 0.0
        if reasons[operation.signature] and not _ok(stored[operation.signature])
        else _weight(operation, costs, ranges)
        for operation in operations
    }
    total = sum(weights.values()) or 1.0
    rows = [
        _row(
            operation,
            stored[operation.signature],
            weights[operation.signature] / total,
            reasons[operation.signature],
            machine=machine,
            ranges=ranges,
            costs=costs,
            precision=precision,
            error=error,
            retry_failed=retry_failed,
        )
        for operation in operations
    ]
    rows.sort(key=lambda row: (-row.share / max(row.estimate_s, 1e-3), row.operation.signature))
    return Plan(tuple(rows), ranges, machine, host_cost_s(database, machine))


def _ok(measurements: Sequence[Measurement]) -> list[Measurement]:
    return [measurement for measurement in measurements if measurement.status is Status.OK]


def _row(
    operation: Operation,
    stored: Sequence[Measurement],
    share: float,
    why_not_here: str | None,
    *,
    machine: Machine,
    ranges: Ranges,
    costs: CostModel,
    precision: Precision,
    error: ErrorModel | None,
    retry_failed: bool,
) -> Row:
    measured = _ok(stored)
    given_up = (
        {m.point for m in stored if m.status in (Status.FAILED, Status.SKIPPED)} if not retry_failed else set[Point]()
    )
    known = {measurement.point for measurement in measured} | given_up
    missing = tuple(point for point in coarse_points(operation, ranges) if point not in known)
    skip = why_not_here if missing else None  # what was measured on another machine like this one needs nothing here
    candidate = None
    if why_not_here is None and not missing and len(measured) > 2:
        candidate = next_point(operation, measured, ranges, error)
    refine = candidate is not None and candidate not in given_up
    estimate = 0.0
    if skip is None and (missing or refine):
        estimate = costs.build_s(operation)
        points = missing or tuple(measurement.point for measurement in measured)
        each = [costs.point_s(operation, point, precision) for point in points]
        estimate += sum(each) if missing else 0.0
        estimate += expected_refinements(operation) * sum(each) / len(each)
    return Row(
        operation=operation,
        environment=environment_for(operation, machine),
        missing=missing,
        refine=refine,
        covered=len(measured),
        failed=len(given_up),
        share=share,
        estimate_s=estimate,
        saved_s=sum(measurement.cost_s for measurement in measured),
        skip=skip,
    )


def _weight(operation: Operation, costs: CostModel, ranges: Ranges) -> float:
    """Predicted us per step, over a full decode step and a full prefill step alike."""
    decode = _typical(operation, ranges.max_requests, ranges)
    prefill = _typical(operation, ranges.max_tokens, ranges)
    return operation.count * sum(costs.latency_us(operation, point) for point in (decode, prefill))


def _typical(operation: Operation, tokens: int, ranges: Ranges) -> Point:
    """A step of `tokens` tokens: all requests decode, or one prompt is read."""
    if operation.kind.stateful:
        context = ranges.max_context // 4
        if tokens == ranges.max_requests:
            return Point.of_requests([(1, context)] * tokens)
        return Point.of_requests([(min(tokens, ranges.max_context), 0)])
    grid = coarse_points(operation, ranges)
    return min(grid, key=lambda point: abs(point.axes.get("T", 0) - tokens))
