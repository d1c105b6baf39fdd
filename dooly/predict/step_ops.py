"""The work of one model: each operation with its formula, how often it runs, and what its axes stand for."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from dooly.errors import PredictError
from dooly.fit.formula import Formula
from dooly.fit.observation import Mixture, Routing, experts_reached
from dooly.fit.target import Subject, subject_of
from dooly.ir.operation import Operation
from dooly.ir.opset import BETWEEN_STAGES, Kind
from dooly.predict.sizes import ONE_STEP, Number, Sizes

__all__ = ["Work", "collect_work"]


@dataclass(frozen=True)
class Work:
    """One line of a step.

    Attributes:
        operation: what runs.
        count: how often in one step.
        bind: (axis of the operation, request symbol of the step) where they differ: ``("T", "L")`` for rows of logits.
        formula: its latency.
        routing: of a mixture of experts.
    """

    operation: Operation
    count: int
    bind: tuple[tuple[str, str], ...]
    formula: Formula
    routing: Routing = experts_reached

    @cached_property
    def subject(self) -> Subject:
        """Window, experts and symbols of the operation."""
        return subject_of(self.operation)

    @cached_property
    def sizes(self) -> tuple[tuple[str, str], ...]:
        """(axis, request symbol) for each axis that the step assigns; activated experts follow from the tokens."""
        bind = dict(self.bind)
        return tuple((axis, bind.get(axis, axis)) for axis in self.operation.axes if axis != "A")

    @cached_property
    def axis(self) -> str | None:
        """The request symbol, if it alone decides the latency: such work is tabulated."""
        if self.operation.kind.stateful:
            return None
        names = {name for _, name in self.sizes}
        return names.pop() if len(names) == 1 else None

    def total_us(self, values: Mapping[str, Number], sizes: Sizes) -> tuple[Number, Number]:
        """us of all `count` runs, and whether extrapolated.

        Args:
            values: by request symbol of the step; of attention, `Batch.attention` of its window.
            sizes: says whether these are of one step or of many.
        """
        if self.bind:
            values = {**values, **{axis: values[name] for axis, name in self.sizes}}
        if self._mixture is not None:
            values = {**values, "A": self._mixture.reached(values["T"], self.routing)}
        if not self._rows:
            latency, outside = sizes.latency(self.formula, values)
            return latency * self.count, outside
        some = values["L"] >= 1
        if self.axis == "L" and not sizes.any(some):
            return 0.0, False
        values = {**values, **{axis: sizes.longest(values[axis], 1.0) for axis in self._rows}}
        latency, outside = sizes.latency(self.formula, values)
        if self.axis == "L":
            return sizes.choose(some, latency * self.count, 0.0), outside & some
        return latency * self.count, outside

    def alone_us(self, values: Mapping[str, float]) -> tuple[float, bool]:
        """`total_us` of one step."""
        return self.total_us(values, ONE_STEP)

    @cached_property
    def _rows(self) -> list[str]:
        """Axes that stand for rows of logits.  A step may have none: then work on them alone is free."""
        return [axis for axis, name in self.sizes if name == "L"]

    @cached_property
    def _mixture(self) -> Mixture | None:
        return self.subject.mixture


def collect_work(
    operations: Iterable[Operation],
    formulas: Mapping[str, Formula],
    model: str,
    routing: Routing = experts_reached,
    device: str = "",
) -> tuple[Work, ...]:
    """The work of one step of a model.

    Collectives over a single rank do nothing and are left out.

    Args:
        operations: a table of operations; only the uses by `model` count.
        formulas: by signature.
        model: name as in the uses.
        device: on which formulas are missing, for the message; empty where that is not known.

    Raises:
        PredictError: the model uses none of the operations, or one that it uses has no formula.
    """
    found: list[Work] = []
    missing: list[Operation] = []
    stage = False
    for operation in operations:
        counts: dict[tuple[tuple[str, str], ...], int] = {}
        for use in operation.uses:
            if use.model == model:
                counts[use.bind] = counts.get(use.bind, 0) + use.count
        if not counts or (operation.kind is Kind.COLLECTIVE and operation.attr("ranks") == 1):
            continue
        stage = stage or operation.target in BETWEEN_STAGES
        if operation.signature not in formulas:
            missing.append(operation)
            continue
        formula = formulas[operation.signature]
        found += [Work(operation, count, bind, formula, routing) for bind, count in counts.items()]
    if missing:
        raise PredictError(f"{model}: {_without_formula(None if stage else model, missing, device)}")
    if not found:
        raise PredictError(f"{model}: the operation table holds nothing that it uses; lower the model first")
    return tuple(found)


def _without_formula(model: str | None, missing: list[Operation], device: str) -> str:
    """Say what the model, or a pipeline stage, has no formula of, and what to do about it on which device."""
    missing = sorted(missing, key=lambda operation: operation.kind is Kind.COLLECTIVE)
    others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    last = missing[-1]
    among, profile, where = "", f"dooly profile {model}", ""
    if last.kind is Kind.COLLECTIVE:
        ranks = last.attr("ranks")
        among = f", among them {last.name} {f'over {ranks} ranks' if ranks else 'between stages'}"
        profile, where = "dooly profile", " where that many devices are"
    if model is None:
        profile = "python -m dooly.passes MODEL --pp N -o stages.ir && dooly profile stages.ir"
    if device:
        where = f" on {device}{where}"
    way = f"`{profile}` measures it{where}, `dooly fit` fits what is there"
    return f"no formula of {missing[0].name}{others}{among}; {way}"
