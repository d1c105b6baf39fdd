"""From measured points to a formula: candidates compete on points that they have not seen."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import cast

import numpy as np
from numpy.typing import NDArray

from dooly.errors import FitError
from dooly.fit.evaluator import column_evaluator
from dooly.fit.formula import Formula, Held, Parameter, Range
from dooly.fit.observation import Observation
from dooly.fit.residual import Residual, fit_curve, fit_field
from dooly.fit.solve import Estimate, estimate, intervals
from dooly.fit.target import Subject, subject_of
from dooly.fit.terms import PARAMETERS, Regime, Structure, regimes
from dooly.host import POWER_LIMIT
from dooly.ir.expr import FloorDiv, symbol, symbols_of
from dooly.ir.operation import Operation
from dooly.ir.opset import Kind, fewest_points

__all__ = ["Data", "collect", "domain_of", "fit", "fit_subject", "parameters_of", "plan_of"]

Column = NDArray[np.float64]
_FOLDS = 6
_ENOUGH_FOR_REGIME = 6
# More parameters must lower the held-out log ratio by this share and this much.
_MARGIN, _ENOUGH = 0.01, 0.0005
# To predict a point that is left out, a curve bridges twice the gap that it bridges to predict one in between.
_BRIDGED = 2.0
_IMPLAUSIBLE = 1.5  # longer than more work by this factor
_SCATTER = 0.15  # spread of samples (interquartile range over median) at which a point counts half


def fit(operation: Operation, observations: Iterable[Observation]) -> Formula:
    """Fit the latency of a lowered operation.

    Raises:
        FitError: too few distinct points, or points that do not fit the operation; says what to measure.
    """
    return fit_subject(subject_of(operation), observations)


def _fewest(subject: Subject) -> int:
    """Distinct points that a fit takes at least."""
    return 2 if subject.kind is None else fewest_points(len(subject.symbols))


@dataclass(frozen=True)
class Data:
    """Distinct points of one subject, ascending."""

    subject: Subject
    observations: tuple[Observation, ...]
    columns: dict[str, Column]
    latency_us: Column
    trust: Column  # how much each point counts, in (0, 1]

    def __len__(self) -> int:
        return len(self.observations)

    @property
    def planned_us(self) -> tuple[float, float]:
        """Host time of planning a step that only decodes, and one with prompts; 0 of a kind that was not measured."""
        prompts = [each.plan_us for each in self.observations if each.batch and each.batch.tokens > each.batch.count]
        decodes = [each.plan_us for each in self.observations if each.batch and each.batch.tokens == each.batch.count]
        return float(np.median(decodes or [0.0])), float(np.median(prompts or [0.0]))

    @property
    def queued_us(self) -> float:
        """Host time of queueing a call; of attention with prompts, since a step of decodes is one graph."""
        known = [each for each in self.observations if each.queued_us]
        with_prompts = [each for each in known if each.batch is not None and each.batch.tokens > each.batch.count]
        return float(np.median([each.queued_us for each in with_prompts or known])) if known else 0.0

    def take(self, rows: NDArray[np.bool_]) -> "Data":
        kept = tuple(o for o, keep in zip(self.observations, rows.tolist(), strict=True) if keep)
        columns = {n: c[rows] for n, c in self.columns.items()}
        return Data(self.subject, kept, columns, self.latency_us[rows], self.trust[rows])

    def mean(self, errors: Column) -> float:
        """Mean of absolute errors by trust; points never held out are nan."""
        held = ~np.isnan(errors)
        return float(np.average(np.abs(errors[held]), weights=self.trust[held]))


@dataclass(frozen=True)
class _Candidate:
    found: Estimate
    folds: Sequence[NDArray[np.bool_]]  # rows that are held out together
    errors: Column  # log ratio of each held-out point by a fit without it; nan where never held out
    score: float


def fit_subject(subject: Subject, observations: Iterable[Observation]) -> Formula:
    """Fit one subject; see `fit`."""
    return _fit_points(subject, tuple(observations))


@lru_cache(maxsize=1024)
def _fit_points(subject: Subject, observations: tuple[Observation, ...]) -> Formula:
    """Fit the same points once: the host's belong to every model."""
    data = collect(subject, observations)
    best = _choose(data)
    residual, errors = _residual(data, best.found), best.errors
    if residual is not None:
        several = data.subject.single is None
        singly = best.folds if several else _singles(data)
        plain, corrected = (_held_out(data, singly, best.found, correct=each) for each in (False, True))
        if data.mean(corrected) < data.mean(plain) * (1.0 if several else _BRIDGED):
            errors = corrected
        else:
            residual = None
    relative = np.exp(errors) - 1.0
    believed = np.where(data.trust >= min(0.5, float(data.trust.max())), np.abs(relative), np.nan)
    worst = int(np.nanargmax(believed if np.any(~np.isnan(believed)) else np.abs(relative)))
    held = Held(
        mape=data.mean(relative),
        symbolic_mape=data.mean(np.exp(best.errors) - 1.0),
        worst_point=data.observations[worst].point,
        worst_error=float(relative[worst]),
        noise=float(np.median([observation.spread for observation in data.observations])),
        disturbed=int(np.sum(data.trust < 0.5)),
        points=len(data),
    )
    return Formula(
        signature=subject.signature,
        name=subject.name,
        flops=subject.flops,
        bytes=subject.bytes,
        structure=best.found.structure,
        parameters=parameters_of(best.found, intervals(best.found, data.columns, data.latency_us, data.trust)),
        residual=residual,
        domain=domain_of(data, best.found.structure),
        held=held,
        plan_us=plan_of([data.planned_us]),
        queued_us=data.queued_us,
    )


def plan_of(planned_us: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """Return the least known of several times for decodes and for prompts; an unknown kind takes that of the other."""
    decodes, prompts = (min(filter(None, kind), default=0.0) for kind in zip(*planned_us, strict=True))
    return decodes or prompts, prompts or decodes


def collect(subject: Subject, observations: tuple[Observation, ...], fewest: int | None = None) -> Data:
    """One row for each distinct point, times of equal points by their median.

    Raises:
        FitError: fewer than `fewest` distinct points; by default three, or five where there are several axes.
    """
    by_point: dict[str, list[Observation]] = {}
    for observation in observations:
        by_point.setdefault(observation.point, []).append(observation)
    distinct = [
        replace(
            same[0],
            latency_us=float(np.median([o.latency_us for o in same])),
            spread=float(np.median([o.spread for o in same])),
        )
        for same in by_point.values()
    ]
    needed = fewest or _fewest(subject)
    if len(distinct) < needed:
        sizes = f" over {', '.join(subject.symbols)}" if subject.symbols else ""
        raise FitError(
            f"{subject.name}: {len(distinct)} measured points, at least {needed} are needed of work{sizes}; "
            f"measure more of it with `dooly profile` (operation {subject.signature})"
        )
    columns = subject.columns(distinct)
    latency = np.array([o.latency_us for o in distinct])
    keys = [columns[name] for name in reversed(subject.symbols)]
    order = [int(i) for i in np.lexsort(keys)]
    ordered = tuple(distinct[i] for i in order)
    spread = np.array([o.spread for o in ordered])
    trust = _plausibility(columns, latency)[order] / (1.0 + (spread / _SCATTER) ** 2)
    return Data(subject, ordered, {n: c[order] for n, c in columns.items()}, latency[order], trust)


def _plausibility(columns: dict[str, Column], latency_us: Column) -> Column:
    """In (0, 1]: less than 1 where a point took over half as long again as one that is larger in every respect.

    Less work does not take longer: the machine was disturbed while the smaller point was measured.
    """
    table = np.stack(list(columns.values()), axis=1)
    larger = np.all(table[None, :, :] >= table[:, None, :], axis=2)  # [i, j]: j is as large as i or larger
    bound = np.min(np.where(larger, latency_us[None, :], np.inf), axis=1)
    return np.minimum(1.0, _IMPLAUSIBLE * bound / latency_us) ** 2


def _folds(data: Data) -> list[NDArray[np.bool_]]:
    """Rows held out together.  The two ends of a single axis stay in: beyond the rest there is no interpolation."""
    count = len(data)
    inner = np.ones(count, dtype=bool)
    if data.subject.single is not None and count > 4:
        inner[[0, -1]] = False
    rank = np.cumsum(inner) - 1
    folds = min(_FOLDS, int(inner.sum())) if count > 2 * _FOLDS else int(inner.sum())
    return [inner & (rank % folds == k) for k in range(folds)]


def _singles(data: Data) -> list[NDArray[np.bool_]]:
    """One inner point of a single axis at a time: a residual needs its neighbours."""
    return [np.arange(len(data)) == i for i in range(1, len(data) - 1)]


def _choose(data: Data) -> _Candidate:
    """Put together the structures that fit each regime best.

    Raises:
        FitError: no structure follows from the points.
    """
    parts = _division(data)
    rows = [_rows(data, regime) for regime in parts]
    chosen = [_best_of(data.take(inside), regime) for inside, regime in zip(rows, parts, strict=True)]
    errors = np.full(len(data), np.nan)
    folds = [np.zeros(len(data), dtype=bool) for _ in range(max(len(each.folds) for each in chosen))]
    for inside, each in zip(rows, chosen, strict=True):
        errors[inside] = each.errors
        for fold, held in zip(folds, each.folds, strict=False):
            fold[np.flatnonzero(inside)[held]] = True
    found = Estimate(
        tuple(term for each in chosen for term in each.found.structure),
        tuple(value for each in chosen for value in each.found.coefficients),
        sum(each.found.cost for each in chosen),
    )
    return _Candidate(found, folds, errors, data.mean(errors))


def _division(data: Data) -> tuple[Regime, ...]:
    """The finest one each of whose regimes has enough points."""
    *finer, coarsest = regimes(data.subject, len(data))
    for parts in finer:
        if min(int(_rows(data, regime).sum()) for regime in parts) >= _ENOUGH_FOR_REGIME:
            return parts
    return coarsest


def _rows(data: Data, regime: Regime) -> NDArray[np.bool_]:
    return np.broadcast_to(column_evaluator(regime.within)(data.columns), len(data)) == 1.0


def _best_of(data: Data, regime: Regime) -> _Candidate:
    """The candidate with the fewest parameters whose held-out error is within a margin of the best.

    Raises:
        FitError: no structure follows from the points.
    """
    folds = _folds(data)
    best = _best(_tried(regime.structures, data, folds))
    if best is None:
        raise FitError(
            f"{data.subject.name}: no formula follows from its {len(data)} points; "
            f"measure other sizes with `dooly profile` (operation {data.subject.signature})"
        )
    while True:
        structure = best.found.structure
        longer = [(*structure, term) for term in regime.additions if term not in structure]
        better = _best([best, *_tried(longer, data, folds)])
        if better is None or better is best:
            return best
        best = better


def _tried(wanted: Iterable[Structure], data: Data, folds: Sequence[NDArray[np.bool_]]) -> list[_Candidate]:
    """Fit each structure that is left over once, with its held-out error."""
    seen: set[Structure] = set()
    candidates: list[_Candidate] = []
    for structure in wanted:
        found = estimate(structure, data.columns, data.latency_us, data.trust)
        if found is None or found.structure in seen or len(found.coefficients) >= len(data):
            continue
        seen.add(found.structure)
        errors = _held_out(data, folds, found)
        candidates.append(_Candidate(found, folds, errors, data.mean(errors)))
    return candidates


def _best(candidates: Sequence[_Candidate]) -> _Candidate | None:
    if not candidates:
        return None
    least = min(c.score for c in candidates)
    good = [c for c in candidates if c.score <= least * (1 + _MARGIN) + _ENOUGH]
    return min(good, key=lambda c: _complexity(c.found.structure))  # the first of equals


def _complexity(structure: Structure) -> int:
    """Parameters, and one more for each that counts whole tiles."""
    contributions = [c for term in structure for c in term]
    return len(contributions) + sum(c.quantity.has(FloorDiv) for c in contributions)


def _held_out(data: Data, folds: Sequence[NDArray[np.bool_]], found: Estimate, correct: bool = False) -> Column:
    """Log ratio at each point by a fit without its fold, with the residual of that fit if asked."""
    errors = np.full(len(data), np.nan)
    for rows in folds:
        train, test = data.take(~rows), data.take(rows)
        refit = estimate(found.structure, train.columns, train.latency_us, train.trust, start=found)
        if refit is None:
            refit = found  # the rest cannot tell the parameters apart; the whole can
        predicted = refit.predict(test.columns, len(test))
        if correct:
            residual = _residual(train, refit)
            if residual is not None:
                predicted = predicted * residual.scale(predicted, test.columns)
        errors[rows] = np.log(np.maximum(predicted, 1e-9) / test.latency_us)
    return errors


def _residual(data: Data, found: Estimate) -> Residual | None:
    if data.subject.kind is None and data.subject.signature != POWER_LIMIT:
        return None  # host work is counted, not shaped: linear by construction
    axis = data.subject.single
    if axis is not None:
        at = data.columns[axis]

        def symbolic(sizes: Column) -> Column:
            return found.predict({axis: sizes}, len(sizes))

        # Of matrix products libraries have many kernels, and some that they choose are slow: 513 rows may take longer
        # than 608.
        rising = data.subject.kind is not Kind.GEMM
        return fit_curve(axis, at, symbolic, data.latency_us, data.trust, rising=rising)
    symbolic_us = found.predict(data.columns, len(data))
    return fit_field(data.subject.coordinates, data.columns, symbolic_us, data.latency_us, data.trust)


def parameters_of(found: Estimate, bounds: Sequence[tuple[float, float]]) -> tuple[Parameter, ...]:
    """Coefficients and their intervals as parameters with units."""
    names = [c.parameter for term in found.structure for c in term]
    parameters: list[Parameter] = []
    for name, coefficient, (low, high) in zip(names, found.coefficients, bounds, strict=True):
        kind = PARAMETERS[name]
        value = float(coefficient)
        if kind.rate is not None:
            value, low, high = 1.0 / value, 1.0 / high, 1.0 / low if low > 0 else float("inf")
        parameters.append(Parameter(name, value, min(low, value), max(high, value), kind.unit))
    return tuple(parameters)


_PARTS = ("M", "Sd", "Sx", "Sp", "Sq", "Tp", "Pp", "Pt")
"""Symbols that only say how a batch divides: the coordinates tell where it lies."""


def domain_of(data: Data, structure: Structure) -> tuple[Range, ...]:
    """Ranges of the coordinates, and of the symbols among the axes that are no coordinate themselves.

    Work of the host has none but the formula's own symbols: on others it does not depend.
    """
    quantities = [symbol(name) for name in data.subject.symbols if name not in _PARTS]
    quantities += [e for e in data.subject.coordinates if e not in quantities and "M" not in symbols_of(e)]
    if data.subject.kind is None:
        used = {name for term in structure for c in term for name in symbols_of(c.quantity)}
        quantities = [each for each in quantities if used & symbols_of(each)]
    ranges: list[Range] = []
    for quantity in quantities:
        column = cast(Column, column_evaluator(quantity)(data.columns))
        ranges.append(Range(quantity, float(column.min()), float(column.max())))
    return tuple(ranges)
