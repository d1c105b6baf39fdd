"""The figures of ``dooly coverage`` for several models: shares of operations, predicted time, measuring cost."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dooly.batch import Batch
from dooly.database import Point, PointSource
from dooly.evaluate.sharing import Sharing
from dooly.executor import Plan, Ranges
from dooly.executor.plan.cost import CostModel
from dooly.fit.target import subject_of
from dooly.ir import Kind, Operation, Use
from dooly.predict.step_ops import Work, collect_work
from dooly.workspace.formulas import formulas_here

__all__ = ["SharedWork", "shared_work"]


@dataclass(frozen=True)
class SharedWork:
    """Sharing by three weights.

    Attributes:
        operations: each distinct operation is 1.
        time: us of a typical decode step and a typical prefill step.
        measuring: seconds, spent or expected, to measure an operation over the ranges of the plan; 0 where nothing here
            can measure it.
        time_from: ``formulas`` where the database has one of every operation, else ``roofline`` for all of them; never
            a mixture.
        without_formula: how many operations have none.
    """

    operations: Sharing
    time: Sharing
    measuring: Sharing
    time_from: str
    without_formula: int

    def by(self, what: str) -> Sharing:
        """One of the three by name."""
        return {"operations": self.operations, "time": self.time, "measuring": self.measuring}[what]

    def source(self, what: str) -> str:
        """Words after the name of a quantity that say where it comes from, if that could be in doubt."""
        return f" ({self.time_from})" if what == "time" else ""

    def document(self) -> dict[str, Any]:
        """Everything for a program: a row for each model, and the matrices (row wanted, column known, 0 to 1)."""
        return {
            "time_from": self.time_from,
            "operations_without_formula": self.without_formula,
            "models": [self._row(model) for model in self.operations.models],
            "sharing": {what: self.by(what).matrix() for what in ("operations", "time", "measuring")},
        }

    def _row(self, model: str) -> dict[str, Any]:
        others = self.operations.others(model)
        shares = {
            f"{what}_shared_percent": 100 * self.by(what).share(model, others)
            for what in ("operations", "time", "measuring")
        }
        return {
            "model": model,
            "operations": len(self.operations.weights[model]),
            **shares,
            "adds_operations": round(self.operations.adds(model)),
            "adds_measuring_s": self.measuring.adds(model),
        }


def shared_work(plan: Plan, database: PointSource) -> SharedWork:
    """Shares between all models that use operations of the plan."""
    operations = [row.operation for row in plan.rows]
    models = sorted({use.model for operation in operations for use in operation.uses})
    rows = {row.operation.signature: row for row in plan.rows}
    costs = CostModel(plan.machine)
    formulas = formulas_here(database, operations, plan.machine)
    needed = [operation for operation in operations if not _is_free(operation)]
    missing = sum(operation.signature not in formulas for operation in needed)

    def roofline_us(operation: Operation) -> float:
        if _is_free(operation):
            return 0.0
        calls = (
            (use.count, _point(operation, use, batch)) for use in operation.uses for batch in _typical(plan.ranges)
        )
        return sum(count * costs.latency_us(operation, point) for count, point in calls)

    def formula_us(operation: Operation) -> float:
        work = collect_work([operation], formulas, operation.uses[0].model) if not _is_free(operation) else ()
        return sum(_work_us(each, batch) for each in work for batch in _typical(plan.ranges))

    def measuring_s(operation: Operation) -> float:
        return rows[operation.signature].estimate_s + rows[operation.signature].saved_s

    def by(weigh: Callable[[Operation], float]) -> Sharing:
        return Sharing.of(operations, models, weigh)

    return SharedWork(
        by(lambda _operation: 1.0),
        by(roofline_us if missing else formula_us),
        by(measuring_s),
        "roofline" if missing else "formulas",
        missing,
    )


def _is_free(operation: Operation) -> bool:
    """A collective over one rank does nothing."""
    return operation.kind is Kind.COLLECTIVE and operation.attr("ranks") == 1


def _typical(ranges: Ranges) -> Sequence[Batch]:
    """All requests decode; one prompt is read."""
    prompt = min(ranges.max_tokens, ranges.max_context)
    return Batch.of(*[(1, ranges.max_context // 4)] * ranges.max_requests), Batch.of((prompt, 0))


def _point(operation: Operation, use: Use, batch: Batch) -> Point:
    """Return the point of one use of the operation in a step; experts are reached as under uniform routing."""
    if operation.kind.stateful:
        return Point.of_requests(batch.requests)
    step = {"T": batch.tokens, "R": len(batch.requests), "L": batch.logits}
    step |= {axis: step[name] for axis, name in use.bind}
    mixture = subject_of(operation).mixture
    if mixture is not None:
        step["A"] = max(1, round(mixture.reached(step["T"])))
    return Point.of(**{axis: step[axis] for axis in operation.axes or ("T",)})


def _work_us(work: Work, batch: Batch) -> float:
    if work.operation.kind.stateful:
        return work.alone_us(batch.attention(work.subject.window))[0]
    return work.alone_us({"T": batch.tokens, "R": len(batch.requests), "L": batch.logits})[0]
