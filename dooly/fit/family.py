"""One formula for operations that differ in their shapes only: what to expect of a shape that was never measured."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import cast

import numpy as np
import sympy
from numpy.typing import NDArray

from dooly.errors import FitError
from dooly.fit.evaluator import column_evaluator
from dooly.fit.formula import Formula, Held, Parameter
from dooly.fit.observation import Observation
from dooly.fit.residual import BOUND, fit_curve
from dooly.fit.select import Data, collect, domain_of, fit, parameters_of, plan_of
from dooly.fit.solve import Estimate, estimate, intervals
from dooly.fit.target import Subject, subject_of
from dooly.fit.terms import Contribution, Structure, family_structures
from dooly.ir.expr import symbol, symbols_of
from dooly.ir.operation import Operation
from dooly.ir.opset import Kind, spec_of

__all__ = [
    "ENOUGH",
    "NOT_MEASURED",
    "Families",
    "Family",
    "family_key",
    "fit_families",
    "plain_target",
    "stored_types",
]

Column = NDArray[np.float64]

_FEWEST = 3
"""Operations from which on the parameters say something of another shape."""

ENOUGH = 8
"""Points from which on an operation is fitted for itself."""

Key = tuple[str, ...]


_STORED = frozenset(("f8e4m3", "f8e5m2", "i8", "u8", "i32"))
"""Element types of weights that kernels convert or unpack."""

_PLAIN = {"packed_linear": "linear", "scaled_linear": "linear"}
"""Targets of the same work on weights of the model's own type, where they differ."""

NOT_MEASURED = 1.0
"""Error of what one storage type reaches taken for another: right to a factor of two, until some of it is measured."""


def stored_types(operation: Operation) -> tuple[str, ...]:
    """Element types of weights and caches that are not of the type that the operation computes in, sorted."""
    found = {
        operand.dtype
        for operand in operation.operands
        if operand.dtype in _STORED and len(operand.shape) > 1 and not any(map(symbols_of, operand.shape))
    }
    cache = operation.attr("kv_dtype")
    if isinstance(cache, str) and cache != operation.results[0].dtype:
        found.add(cache)
    return tuple(sorted(found))


def plain_target(operation: Operation) -> str:
    """Target of the same work on weights of the model's own type."""
    return _PLAIN.get(operation.target, operation.target)


def family_key(operation: Operation) -> Key:
    """Return what operations must have in common to share parameters: work, element types, kernel, axes."""
    types = sorted({operand.dtype for operand in operation.operands})
    body = (
        [op.target for op in operation.body.ops if spec_of(op.target).kind is not Kind.VIEW] if operation.body else []
    )
    kernels = [name for name in map(operation.attr, ("backend", "kernel")) if isinstance(name, str)]
    stored = [f"stored {each}" for each in stored_types(operation) if each not in types]
    return (operation.target, *kernels, *body, *types, *stored, *operation.axes)


@dataclass(frozen=True)
class Family:
    """Parameters that operations of one family share.

    Attributes:
        members: names of the operations, in order.
        layout: which of `family_structures` holds.
        kept: parameters that were of use, in order.
        parameters: their values.
        median, p90: absolute error, as fractions, at points of a member by the parameters of all the others.
        plan_us, queued_us: as of a `Formula`, the least known of the members.
    """

    members: tuple[str, ...]
    layout: int
    kept: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    median: float
    p90: float
    plan_us: tuple[float, float]
    queued_us: float

    def formula(self, operation: Operation, observations: Iterable[Observation] = ()) -> Formula:
        """For an operation of the family, measured or not.

        Args:
            observations: a few points of it, if there are any: they set its level, and along a single axis its shape.

        Raises:
            FitError: the points do not belong to the operation.
        """
        subject = subject_of(operation)
        structure = _only(family_structures(operation, subject)[self.layout], self.kept)
        own = tuple(observations)
        held = Held(self.median, self.median, "{}", self.p90, 0.0, 0, 0)
        plain = Formula(
            subject.signature,
            subject.name,
            subject.flops,
            subject.bytes,
            structure,
            self.parameters,
            residual=None,
            domain=(),
            held=held,
            plan_us=self.plan_us,
            queued_us=self.queued_us,
            lenders=len(self.members),
        )
        return _levelled(plain, collect(subject, own, fewest=1)) if own else plain


def _only(structure: Structure, kept: Sequence[str]) -> Structure:
    terms = (tuple(c for c in term if c.parameter in kept) for term in structure)
    return tuple(term for term in terms if term)


def _levelled(plain: Formula, data: Data) -> Formula:
    """Scaled to the points, and where one axis decides drawn through them: between these it is not extrapolated."""
    symbolic, _ = plain.predict(data.columns)
    level = float(np.exp(np.clip(np.median(np.log(data.latency_us / symbolic)), -BOUND, BOUND)))
    scaled = replace(plain, parameters=tuple(_scaled(each, level) for each in plain.parameters))
    axis = data.subject.single
    if axis is not None:
        at, flat = data.columns[axis], scaled
        curve = fit_curve(axis, at, lambda x: flat.predict({axis: x})[0], data.latency_us, data.trust)
        scaled = replace(scaled, residual=curve, domain=domain_of(data, plain.structure))
    return replace(scaled, held=replace(plain.held, points=len(data)))


def _scaled(parameter: Parameter, level: float) -> Parameter:
    """For times that are `level` times as long."""
    factor = level if parameter.rate is None else 1.0 / level
    value, low, high = (each * factor for each in (parameter.value, parameter.low, parameter.high))
    return replace(parameter, value=value, low=low, high=high)


@dataclass(frozen=True)
class _Member:
    operation: Operation
    observations: tuple[Observation, ...]
    data: Data = field(compare=False)

    @property
    def subject(self) -> Subject:
        return self.data.subject

    @cached_property
    def structures(self) -> tuple[Structure, ...]:
        return family_structures(self.operation, self.subject)


@dataclass(frozen=True)
class Families:
    """All families of one machine.

    Attributes:
        by_key: the proper ones, and under target and axes alone a coarse one for what belongs to none of them.
        proper: keys of the proper ones.
    """

    by_key: Mapping[Key, Family]
    proper: frozenset[Key]

    def of(self, operation: Operation) -> Family | None:
        """The family of an operation, or the coarse one; None where nothing like it was measured."""
        return self.by_key.get(family_key(operation)) or self.by_key.get(_coarse(operation))

    def lender(self, operation: Operation) -> Family | None:
        """Return the family of the same work on plain weights, for an operation whose storage type has none.

        Its kernels' efficiency is then taken for those of the operation, whose bytes and FLOPs are its own.
        """
        return self.by_key.get(_plain(operation)) if stored_types(operation) else None

    def fit(self, operation: Operation, observations: Sequence[Observation]) -> Formula:
        """Fit an operation by its own points where they are enough, else by its family.

        Raises:
            FitError: it has too few points, and no family.
        """
        family = self.of(operation)
        if len(observations) >= ENOUGH:
            return fit(operation, observations)
        if family is not None:
            return family.formula(operation, observations)
        lender = self.lender(operation)
        if lender is None:
            return fit(operation, observations)
        lent = lender.formula(operation, observations)
        return replace(lent, held=replace(lent.held, mape=NOT_MEASURED, worst_error=NOT_MEASURED))


def _coarse(operation: Operation) -> Key:
    return (operation.target, *(f"stored {each}" for each in stored_types(operation)), *operation.axes)


def _plain(operation: Operation) -> Key:
    return (plain_target(operation), *operation.axes)


def fit_families(
    measured: Mapping[Operation, Sequence[Observation]], wanted: Iterable[Operation] | None = None
) -> Families:
    """Families of measured operations that are enough of a kind; all points must be of one machine.

    Args:
        wanted: only the families of these operations, coarse ones only where there is no proper one; by default all.

    Which structure holds is decided by the error at operations that were left out of the fit, one after the other.
    """
    groups: dict[Key, list[_Member]] = {}
    proper = frozenset(map(family_key, measured))
    for operation, observations in measured.items():
        try:
            points = tuple(observations)
            member = _Member(operation, points, collect(subject_of(operation), points))
        except FitError:
            continue  # too few points to learn from
        for key in {family_key(operation), _coarse(operation)}:
            groups.setdefault(key, []).append(member)
    groups = {key: members for key, members in groups.items() if len(members) >= _FEWEST}
    if wanted is not None:
        needed = {
            next((key for key in (family_key(each), _coarse(each)) if key in groups), _plain(each)) for each in wanted
        }
        groups = {key: members for key, members in groups.items() if key in needed}
    fitted = {key: _fit(_in_order(members)) for key, members in sorted(groups.items())}
    return Families({key: family for key, family in fitted.items() if family is not None}, proper)


def _in_order(members: Iterable[_Member]) -> tuple[_Member, ...]:
    return tuple(sorted(members, key=lambda member: member.subject.signature))


@lru_cache(maxsize=128)
def _fit(members: tuple[_Member, ...]) -> Family | None:
    latency = np.concatenate([member.data.latency_us for member in members])
    trust = np.concatenate([member.data.trust for member in members])
    owner = np.repeat(np.arange(len(members)), [len(member.data) for member in members])
    best: tuple[float, int, Estimate, Mapping[str, Column], Column] | None = None
    for layout in range(len(members[0].structures)):
        shared, columns = _pooled([member.structures[layout] for member in members], members)
        found = estimate(shared, columns, latency, trust)
        if found is None:
            continue
        errors = _left_out(found, columns, latency, trust, owner)
        score = float(np.average(np.abs(errors), weights=trust))
        if best is None or score < best[0] * 0.98:  # the first of equals
            best = (score, layout, found, columns, errors)
    if best is None:
        return None
    _, layout, found, columns, errors = best
    sizes = np.abs(np.exp(errors) - 1.0)
    return Family(
        members=tuple(member.subject.name for member in members),
        layout=layout,
        kept=tuple(c.parameter for term in found.structure for c in term),
        parameters=parameters_of(found, intervals(found, columns, latency, trust)),
        median=float(np.median(sizes)),
        p90=float(np.quantile(sizes, 0.9)),
        plan_us=plan_of(member.data.planned_us for member in members),
        queued_us=min((us for member in members if (us := member.data.queued_us)), default=0.0),
    )


def _quantity(contribution: Contribution, member: _Member) -> Column:
    """At each of the member's points; what does not depend on the batch is the same at all."""
    return np.broadcast_to(column_evaluator(contribution.quantity)(member.data.columns), len(member.data))


def _pooled(structures: Sequence[Structure], members: Sequence[_Member]) -> tuple[Structure, dict[str, Column]]:
    """One structure over columns that hold each member's own quantities, named by their parameters."""
    columns: dict[str, Column] = {}
    for position, term in enumerate(structures[0]):
        for place, first in enumerate(term):
            parts = [_quantity(each[position][place], member) for each, member in zip(structures, members, strict=True)]
            columns[first.parameter] = np.concatenate(parts).astype(np.float64)
    shared = tuple(
        tuple(Contribution(c.parameter, cast(sympy.Expr, symbol(c.parameter))) for c in term) for term in structures[0]
    )
    return shared, columns


def _left_out(
    found: Estimate, columns: Mapping[str, Column], latency_us: Column, trust: Column, owner: NDArray[np.intp]
) -> Column:
    """Log ratio at the points of each member by the parameters of the others."""
    errors = np.empty(len(latency_us))
    for one in np.unique(owner):
        rest, here = owner != one, owner == one
        others = {name: column[rest] for name, column in columns.items()}
        refit = estimate(found.structure, others, latency_us[rest], trust[rest], start=found) or found
        predicted = refit.predict({name: column[here] for name, column in columns.items()}, int(here.sum()))
        errors[here] = np.log(np.maximum(predicted, 1e-9) / latency_us[here])
    return errors
