"""What the points of other models say of a model that was never measured, and what a few GPU-seconds add."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from dooly.batch import Batch
from dooly.database import Measurement, Status
from dooly.errors import FitError
from dooly.fit import Families, Formula, Observation, fit, fit_families
from dooly.ir import Operation, Program
from dooly.predict import StepModel

__all__ = ["BUDGETS_S", "STEPS", "LeftOut", "left_out", "observed"]

BUDGETS_S = (0.0, 3.0, 30.0)
_FIRST = 3

STEPS: Mapping[str, Batch] = {
    **{f"decode {count}": Batch.of(*[(1, 1024)] * count) for count in (1, 8, 32, 128)},
    **{f"prefill {tokens}": Batch.of((tokens, 0)) for tokens in (512, 2048, 8192)},
    "mixed": Batch.of(*[(1, 1024)] * 31, (481, 0)),
}
"""Decode at contexts of 1,024, one prompt, and a prompt of 481 tokens beside 31 requests that decode."""


@dataclass(frozen=True)
class LeftOut:
    """One model without the points of the operations that it alone has.

    Attributes:
        alone, measured: operations that no other model has, and all that were measured.
        missing: names of what was never measured here and counts in neither prediction.
        spent: (points, GPU-seconds) that were added within each of `BUDGETS_S`.
        errors: of each of `STEPS` against the prediction from all points, as fractions, for each budget; empty where an
            operation has neither points nor a family.
    """

    model: str
    alone: int
    measured: int
    missing: tuple[str, ...]
    spent: tuple[tuple[int, float], ...]
    errors: tuple[Mapping[str, float], ...]


def left_out(program: Program, points: Mapping[Operation, Sequence[Measurement]]) -> Iterator[LeftOut]:
    """Leave each model of the program out in turn.

    Args:
        points: measured ones of one machine, by operation.
    """
    measured = {operation.signature: (operation, _good(found)) for operation, found in points.items()}
    measured = {signature: found for signature, found in measured.items() if found[1]}
    known = {signature: formula for signature, found in measured.items() if (formula := _fitted(*found)) is not None}
    models = list(dict.fromkeys(use.model for operation in program.operations for use in operation.uses))
    for model in models:
        operations = program.for_model(model)
        own = [each for each in operations if each.signature in known]
        users = {each.signature: {use.model for use in each.uses} for each in program.operations}
        alone = [each for each in own if users[each.signature] == {model}]
        hidden = {each.signature for each in alone}
        others = {op: observed(found) for signature, (op, found) in measured.items() if signature not in hidden}
        families = fit_families(others, alone)
        shared = {signature: known[signature] for signature in known if signature not in hidden}
        wanted = StepModel.build(own, known, model, device_only=True)
        spent: list[tuple[int, float]] = []
        errors: list[Mapping[str, float]] = []
        for budget_s in BUDGETS_S:
            taken = _buy(wanted, {each: measured[each.signature][1] for each in alone}, budget_s)
            formulas = {each.signature: _formula(families, each, taken[each]) for each in alone}
            bought = [point for found in taken.values() for point in found]
            spent.append((len(bought), sum(point.cost_s for point in bought)))
            known_now = shared | {signature: each for signature, each in formulas.items() if each is not None}
            errors.append(_errors(own, known_now, model, wanted) if None not in formulas.values() else {})
        missing = tuple(sorted(each.name for each in operations if each.signature not in known))
        yield LeftOut(model, len(alone), len(own), missing, tuple(spent), tuple(errors))


def _good(found: Sequence[Measurement]) -> list[Measurement]:
    """Measured points, in the order in which the planner had them taken."""
    return sorted((each for each in found if each.status is Status.OK), key=lambda each: each.started_s)


def observed(found: Sequence[Measurement]) -> list[Observation]:
    """Points as a fit takes them."""
    return [Observation.of(each) for each in found]


def _fitted(operation: Operation, found: Sequence[Measurement]) -> Formula | None:
    try:
        return fit(operation, observed(found))
    except FitError:
        return None


def _buy(
    wanted: StepModel, points: Mapping[Operation, Sequence[Measurement]], budget_s: float
) -> dict[Operation, list[Measurement]]:
    """Points within the budget, as `dooly profile` takes them.

    First three of each operation, the largest share of the steps for a second of measuring first; then the others.
    """
    cost = {operation.signature: sum(each.cost_s for each in found) for operation, found in points.items()}
    share = dict.fromkeys(cost, 0.0)
    for batch in STEPS.values():
        for row in wanted.breakdown(batch).rows:
            if row.signature in share:
                share[row.signature] += row.share
    order = sorted(points, key=lambda each: -share[each.signature] / cost[each.signature])
    taken: dict[Operation, list[Measurement]] = {operation: [] for operation in points}
    left_s = budget_s
    for span in (slice(0, _FIRST), slice(_FIRST, None)):
        for operation in order:
            for point in points[operation][span]:
                if point.cost_s <= left_s:
                    taken[operation].append(point)
                    left_s -= point.cost_s
    return taken


def _formula(families: Families, operation: Operation, own: Sequence[Measurement]) -> Formula | None:
    try:
        return families.fit(operation, observed(own))
    except FitError:
        return None


def _errors(
    operations: Sequence[Operation], formulas: Mapping[str, Formula], model: str, wanted: StepModel
) -> dict[str, float]:
    found = StepModel.build(operations, formulas, model, device_only=True)
    return {
        name: found.step_time(batch).total_us / wanted.step_time(batch).total_us - 1.0 for name, batch in STEPS.items()
    }
