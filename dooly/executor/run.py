"""Carry out a plan: measure what is missing within a budget, one committed point at a time."""

import gc
import math
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace

from dooly.database import Claim, Database, Measurement, Point, Status
from dooly.errors import CaptureError, DoolyError, ProfileError, SimulationError
from dooly.executor.host.measure import measure_host
from dooly.executor.plan.cost import CostModel
from dooly.executor.plan.plan import Plan, Row
from dooly.executor.plan.sweep import ErrorModel, next_point
from dooly.executor.runners import make_runner
from dooly.executor.session import Session, Unsupported, open_session
from dooly.executor.timing.cpu import OTHERS, Precision, confidence
from dooly.executor.timing.stopwatch import Stopwatch
from dooly.executor.trial import Runner, is_out_of_memory
from dooly.ir import Operation
from dooly.ir.opset import fewest_points
from dooly.ir.printer import format_operation

__all__ = ["Event", "Outcome", "run_plan"]

_MEMORY_SHARE = 4


@dataclass(frozen=True)
class Event:
    """Progress: what was just done.

    Fields:
        what: ``start``, ``host``, ``ok``, ``failed``, ``skipped`` or ``taken`` (by another process).
        operation: name of the operation; empty for ``start`` and ``host``.
        detail: the point and its median with stability in words, or the reason.
        done, expected: points dealt with so far, and how many were planned.
        elapsed_s: since the run began.
    """

    what: str
    operation: str
    detail: str
    done: int
    expected: int
    elapsed_s: float


@dataclass
class Outcome:
    """The result of a run.

    Fields:
        taken, failed, skipped: points by result.
        elsewhere: points that another process took meanwhile.
        host_points: points of host time taken.
        host_error: why host time could not be measured; empty if it could, or was not asked for.
        left: operations that still lack points, because the budget ended; `host time` if it was too short for that.
        elapsed_s: wall seconds, start of the engine included.
        waited_s: those of them in which other processes had the processor.
    """

    taken: int = 0
    failed: int = 0
    skipped: int = 0
    elsewhere: int = 0
    host_points: int = 0
    host_error: str = ""
    left: list[str] = field(default_factory=list[str])
    elapsed_s: float = 0.0
    waited_s: float = 0.0

    @property
    def complete(self) -> bool:
        """Whether the budget sufficed."""
        return not self.left


def run_plan(
    plan: Plan,
    database: Database,
    *,
    budget_s: float,
    precision: Precision | None = None,
    error: ErrorModel | None = None,
    retry_failed: bool = False,
    progress: Callable[[Event], None] = lambda _: None,
) -> Outcome:
    """Measure what the plan lacks.

    First what a prediction cannot do without: of every operation as many telling points as its formula needs, then host
    time.  Then the rest of each grid, then points between, wherever share of the step times error is largest.  Each
    point is committed when taken; an interrupt gives the one in hand back.

    Args:
        budget_s: seconds of measuring; those in which other processes have the processor do not count.  No point is
            begun that is not expected to end in time.
        error: held-out error of the caller's formulas; steers the points between those of the grid.
        retry_failed: try failed and skipped points again.

    Raises:
        ProfileError: the budget is not positive; or a kernel failed so that the GPU is lost to this process.
        DatabaseError: the database cannot be written; what was committed is kept.
    """
    if budget_s <= 0:
        raise ProfileError(f"the budget is {budget_s:g} s, expected more than 0")
    precision = precision or Precision.usual(plan.machine.torch_device)
    return _Run(plan, database, budget_s, precision, error, retry_failed, progress).go()


@dataclass(frozen=True)
class _Kept:
    """A runner, and the names of the layers that building it has put into the engine's registry."""

    runner: Runner
    layers: frozenset[str]


class _Run:
    """State of one run."""

    def __init__(
        self,
        plan: Plan,
        database: Database,
        budget_s: float,
        precision: Precision,
        error: ErrorModel | None,
        retry_failed: bool,
        progress: Callable[[Event], None],
    ) -> None:
        self.plan, self.database, self.budget_s, self.precision = plan, database, budget_s, precision
        self.error, self.retry_failed, self.progress = error, retry_failed, progress
        self.outcome = Outcome()
        self.costs = CostModel(plan.machine)
        self.watch = Stopwatch()
        self.stack = ExitStack()
        self.session: Session | None = None
        self.kept: dict[str, _Kept] = {}
        self.broken: set[str] = set()
        self.left: set[str] = set()
        self.tried: set[tuple[str, Point]] = set()
        self.dealt_with = 0

    def go(self) -> Outcome:
        try:
            for row in self.plan.rows:
                operation = row.operation
                text = format_operation(replace(operation, uses=(), status=""), name=operation.name)
                self.database.add_operation(operation.signature, operation.target, text)
            self._say("start", "", f"{self.plan.points_missing} points, about {self.plan.estimate_s:.0f} s")
            with self.stack:
                self._measure_all()
        finally:
            self.outcome.elapsed_s, self.outcome.waited_s = self.watch.elapsed_s, self.watch.waited_s
        self.outcome.left = sorted(self.left)
        return self.outcome

    def _measure_host(self) -> None:
        """Host time; where its engines do not run, operations are measured all the same."""
        if not self.plan.host_missing:
            return
        if not self._affords(self.plan.host_s):
            self.left.add("host time")
            return
        self._close_session()
        try:
            self.outcome.host_points = measure_host(
                self.database, self.plan.machine, lambda text: self._say("host", "", text)
            )
        except (CaptureError, ProfileError, SimulationError) as error:
            self.outcome.host_error = str(error)

    def _measure_all(self) -> None:
        rows = self.plan.rows
        for row in rows:
            if row.skip is not None:
                self._skip(row, row.missing, row.skip)
        able = [row for row in rows if row.skip is None]
        self._pass(able, _for_a_formula)
        self._measure_host()
        self._pass(able, lambda row: row.missing)
        self._refine([row for row in able if row.operation.name not in self.left | self.broken])

    def _pass(self, rows: Iterable[Row], part: Callable[[Row], Sequence[Point]]) -> None:
        """A part of each grid; last where another process is at it, since to set an operation up twice takes long."""
        later: list[Row] = []
        for row in rows:
            if self.database.points(row.operation.signature, row.environment, status=Status.CLAIMED):
                later.append(row)
            else:
                self._points(row, part)
        for row in later:
            self._points(row, part)

    def _points(self, row: Row, part: Callable[[Row], Sequence[Point]]) -> None:
        for point in part(row):
            if (row.operation.signature, point) not in self.tried:
                self._take(row, point)

    def _refine(self, rows: list[Row]) -> None:
        """One point after the other, each time for the operation with the largest share among those that want one."""
        for row in sorted(rows, key=lambda row: -row.share):
            while row.operation.name not in self.left | self.broken:
                measured = self.database.points(row.operation.signature, row.environment)
                if len(measured) < fewest_points(len(row.operation.axes)):
                    break
                point = next_point(row.operation, measured, self.plan.ranges, self.error)
                if point is None or not self._take(row, point):
                    break

    def _take(self, row: Row, point: Point) -> bool:
        """Measure one point; False if it was not measured."""
        operation = row.operation
        if operation.name in self.broken:
            return False
        expected_s = self.costs.point_s(operation, point, self.precision)
        if operation.signature not in self.kept:
            expected_s += self.costs.build_s(operation)
        if not self._affords(expected_s):
            self.left.add(operation.name)
            return False
        self.tried.add((operation.signature, point))
        with self._claimed(row, point) as claim:
            if claim is None:
                return False
            try:
                trial = self._runner(operation).trial(point)
                samples = self._session().measure(trial, self.precision)
            except Unsupported as error:
                self._give_up(row, claim, Status.SKIPPED, str(error))
                self._skip(row, self._untouched(row), str(error))
                return False
            except DoolyError:
                raise
            except Exception as error:  # whatever a kernel throws is the result of this point
                what = "out of memory" if is_out_of_memory(error) else type(error).__name__
                self._give_up(row, claim, Status.FAILED, f"{what}: {_first_line(error)}")
                self._session().recover()
                return False
            if not self.database.record_ok(claim, samples):
                self.outcome.elsewhere += 1
                return False
        measured = Measurement(operation.signature, row.environment.key, point, Status.OK, None, samples)
        self.costs.learn(operation, [measured])
        self.outcome.taken += 1
        self.dealt_with += 1
        self._say("ok", operation.name, f"{point}: {measured.latency_us:.1f} us, {stability(measured)}")
        return True

    def _affords(self, expected_s: float) -> bool:
        """Whether so many more seconds are within the budget."""
        return self.watch.busy_s + expected_s <= self.budget_s

    @contextmanager
    def _claimed(self, row: Row, point: Point) -> Generator[Claim | None]:
        """The claim of a point, given back if whatever holds it is interrupted."""
        signature, environment = row.operation.signature, row.environment
        claim = self.database.claim(signature, environment, point, retry_failed=self.retry_failed)
        if claim is None:
            self.outcome.elsewhere += 1
            self.dealt_with += 1
            self._say("taken", row.operation.name, str(point))
        try:
            yield claim
        except BaseException:
            if claim is not None:
                self.database.release(claim)
            raise

    def _give_up(self, row: Row, claim: Claim, status: Status, reason: str) -> None:
        name = row.operation.name
        if status is Status.SKIPPED:
            self.broken.add(name)
            self.outcome.skipped += 1
            self.database.record_skipped(claim, reason)
        else:
            self.outcome.failed += 1
            self.database.record_failed(claim, reason)
        self.dealt_with += 1
        self._say(str(status), name, f"{claim.point}: {reason}")

    def _untouched(self, row: Row) -> list[Point]:
        """Points of the grid that nobody has dealt with yet."""
        stored = self.database.points(row.operation.signature, row.environment, status=None)
        known = {measurement.point for measurement in stored}
        return [point for point in row.missing if point not in known]

    def _skip(self, row: Row, points: Iterable[Point], reason: str) -> None:
        for point in points:
            with self._claimed(row, point) as claim:
                if claim is not None:
                    self._give_up(row, claim, Status.SKIPPED, reason)

    def _runner(self, operation: Operation) -> Runner:
        """The runner of an operation, kept while all kept ones use less than a quarter of the memory."""
        kept = self.kept.get(operation.signature)
        if kept is None:
            registry = self._session().layers
            older = frozenset(registry)
            try:
                runner = make_runner(operation, self._session())
            except Exception:
                self._forget(frozenset(registry) - older)
                raise
            self._drop_largest(self.plan.machine.memory_bytes / _MEMORY_SHARE - runner.weight_bytes)
            kept = self.kept[operation.signature] = _Kept(runner, frozenset(registry) - older)
        return kept.runner

    def _drop_largest(self, limit_bytes: float) -> None:
        """Until the rest fits: regions are small, and compiled anew they cost most."""
        sizes = {signature: kept.runner.weight_bytes for signature, kept in self.kept.items()}
        while sizes and sum(sizes.values()) > limit_bytes:
            largest = max(sizes, key=lambda signature: sizes[signature])
            del sizes[largest]
            self._forget(self.kept.pop(largest).layers)
            gc.collect()

    def _forget(self, names: Iterable[str]) -> None:
        """Layers that no runner has any more: the engine's registry would keep their weights alive."""
        for name in names:
            del self._session().layers[name]

    def _close_session(self) -> None:
        """Give back what runs operations: engines that start here need the memory, and the process to themselves."""
        if self.session is not None:
            self.kept.clear()
            self.session.recover()
            self.stack.close()
            self.session = None

    def _session(self) -> Session:
        if self.session is None:
            self.session = self.stack.enter_context(open_session(self.plan.machine))
        return self.session

    def _say(self, what: str, operation: str, detail: str) -> None:
        self.progress(Event(what, operation, detail, self.dealt_with, self.plan.points_missing, self.watch.elapsed_s))


def _for_a_formula(row: Row) -> Sequence[Point]:
    """The first points of a row that a formula needs, beside those that are there."""
    return row.missing[: max(0, fewest_points(len(row.operation.axes)) - row.covered)]


def stability(measured: Measurement) -> str:
    """How far the latency can be trusted, in words."""
    samples = measured.samples
    quiet, total = samples.undisturbed_us, len(samples.values_us)
    width = confidence(quiet)
    words = f"within {100 * width:.1f} %" if math.isfinite(width) else "from few samples"
    if len(quiet) >= 0.8 * total:
        return f"{'stable' if width <= 0.03 else 'known'} {words} ({total} samples)"
    busy = dict(samples.aside).get(OTHERS, 0.0)
    return f"DISTURBED, {words} from {len(quiet)} of {total} samples while others kept {busy:.1f} processors busy"


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")[:300]
