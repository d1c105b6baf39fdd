"""A fitted formula: a frozen value that predicts, says where it holds and how well, and prints."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
import sympy
from numpy.typing import NDArray

from dooly.errors import FitError
from dooly.fit.evaluator import Evaluator, column_evaluator, scalar_evaluator
from dooly.fit.residual import Residual
from dooly.fit.terms import PARAMETERS, Structure, Term
from dooly.ir.expr import Expr, format_expr, symbols_of

__all__ = ["MOST_US", "Formula", "Held", "Parameter", "Range"]

Column = NDArray[np.float64]
_SLACK = 1e-9

MOST_US = 2.0**40
"""us of one run of an operation, at most, which is twelve days: sums over a step stay finite."""


@dataclass(frozen=True)
class Parameter:
    """A fitted number.

    Attributes:
        value, unit: what it is.
        low, high: 95 % confidence interval; ``high`` may be infinite.
    """

    name: str
    value: float
    low: float
    high: float
    unit: str

    def __post_init__(self) -> None:
        if self.name not in PARAMETERS or self.unit != PARAMETERS[self.name].unit:
            raise ValueError(f"unknown parameter {self.name!r} in {self.unit!r}")
        if not 0 <= self.low <= self.value <= self.high:
            raise ValueError(f"{self.name}: {self.value} outside of its interval {self.low} .. {self.high}")

    @property
    def rate(self) -> float | None:
        """The rate of its `ParameterKind`."""
        return PARAMETERS[self.name].rate

    def __str__(self) -> str:
        if self.high == float("inf"):
            return f"{self.name} {self.value:.4g} {self.unit} (interval open)"
        return f"{self.name} {self.value:.4g} [{self.low:.4g}, {self.high:.4g}] {self.unit}"


@dataclass(frozen=True)
class Range:
    """Measured range of an expression over the request symbols."""

    quantity: Expr
    low: float
    high: float

    def __str__(self) -> str:
        return f"{format_expr(self.quantity)} {self.low:g}..{self.high:g}"


MOST_ERROR = 1.0
"""Largest held-out error of a formula that is used, as a fraction: beyond it, the error exceeds the time itself."""


@dataclass(frozen=True)
class Held:
    """Error on points that were left out of the fit (k-fold), as fractions: 0.02 is 2 %.

    Points count by how much they are trusted: less where their samples scatter, or where more work took less time.

    Attributes:
        mape: mean absolute error of the whole formula.
        symbolic_mape: of the symbolic part alone.
        worst_point, worst_error: point text and signed error (predicted / measured - 1) of the worst trusted one.
        noise: median spread of the measured samples (interquartile range over median): no formula can do much better.
        disturbed: points that are trusted less than half.
        points: distinct points fitted.
    """

    mape: float
    symbolic_mape: float
    worst_point: str
    worst_error: float
    noise: float
    disturbed: int
    points: int

    @property
    def useless(self) -> str | None:
        """Reason for which no prediction may rest on the formula; None if one may."""
        if self.mape <= MOST_ERROR:
            return None
        return (
            f"its formula misses points left out of the fit by {self.mape:,.0%}, more than {MOST_ERROR:.0%} "
            f"({self.points} points); it is not used, `dooly profile` measures more"
        )


@dataclass(frozen=True)
class Formula:
    """Latency of one operation over the request symbols.

    Attributes:
        signature, name: of the operation.
        flops, bytes: of the operation.
        structure: sum of maxima of contributions.
        parameters: one for each contribution, in order.
        residual: correction, or None where it did not lower the held-out error.
        domain: where it was measured.
        held: how well it does on points that it has not seen.
        plan_us: host time of planning it, once for all layers of a step that only decodes, and of one with prompts; 0
            where nothing is planned.
        queued_us: host time of queueing it once, by itself outside of a graph; of the host's launching, what queueing
            the attention of one layer takes by itself; 0 where that is not known.
        lenders: operations whose points it rests on, where it has too few of its own: then it is extrapolated anywhere
            but within the `domain` of its own, if it has one, and `held` is of operations left out of the family,
            median and 90th percentile.
        source: what it rests on where that is not dooly's own points of this machine; else empty.
    """

    signature: str
    name: str
    flops: Expr
    bytes: Expr
    structure: Structure
    parameters: tuple[Parameter, ...]
    residual: Residual | None
    domain: tuple[Range, ...]
    held: Held
    plan_us: tuple[float, float] = (0.0, 0.0)
    queued_us: float = 0.0
    lenders: int = 0
    source: str = ""

    def __post_init__(self) -> None:
        named = [contribution.parameter for term in self.structure for contribution in term]
        if not named or named != [parameter.name for parameter in self.parameters]:
            raise ValueError(
                f"{self.name}: terms need the parameters {named}, found {[p.name for p in self.parameters]}"
            )

    @property
    def _borrowed(self) -> bool:
        """Whether no points of its own say where it holds."""
        return self.lenders > 0 and not self.domain

    @cached_property
    def symbols(self) -> tuple[str, ...]:
        """Request symbols that `predict` reads, sorted."""
        used = [each for term in self.structure for c in term for each in (c.quantity, c.within)]
        used += [held.quantity for held in self.domain]
        used += self.residual.coordinates if self.residual is not None else ()
        return tuple(sorted({name for e in used for name in symbols_of(e)}))

    @cached_property
    def by_batches(self) -> Mapping[Expr, Sequence[Term]]:
        """Terms by what is 1 for the batches that they count for, in order."""
        found: dict[Expr, list[Term]] = {}
        for term in self.structure:
            found.setdefault(term[0].within, []).append(term)
        return found

    @cached_property
    def expression(self) -> Expr:
        """Symbolic part in us, over request symbols and parameters by name."""
        named = {p.name: cast(Expr, sympy.Symbol(p.name, positive=True)) for p in self.parameters}
        return self._sum(named)

    @cached_property
    def fitted(self) -> Expr:
        """Symbolic part in us with the parameters' values."""
        return self._sum(self._numbers)

    @property
    def _numbers(self) -> dict[str, Expr]:
        return {p.name: cast(Expr, sympy.Float(p.value)) for p in self.parameters}

    def _sum(self, parameters: Mapping[str, Expr]) -> Expr:
        return sympy.Add(*(within * part for within, part in self._parts(parameters)))

    def _parts(self, parameters: Mapping[str, Expr]) -> list[tuple[Expr, Expr]]:
        """Sums of terms by the factor that is 1 for the batches that they count for."""

        def largest(term: Term) -> Expr:
            parts = [c.expression(parameters[c.parameter]) for c in term]
            return parts[0] if len(parts) == 1 else cast(Expr, sympy.Max(*parts))

        return [(within, sympy.Add(*map(largest, terms))) for within, terms in self.by_batches.items()]

    @cached_property
    def _parts_one(self) -> list[tuple[Evaluator, Evaluator]]:
        """Evaluators of each part: the factor that is 1 for the batches that it counts for, and its us."""
        return [(scalar_evaluator(within), scalar_evaluator(part)) for within, part in self._parts(self._numbers)]

    @cached_property
    def _place_one(self) -> tuple[list[Evaluator], list[tuple[float, float]], list[int]]:
        """Evaluators of what domain and residual look at; the domain's ranges; which are the residual's coordinates."""
        quantities = [held.quantity for held in self.domain]
        coordinates = () if self.residual is None else self.residual.coordinates
        quantities += [each for each in coordinates if each not in quantities]
        ranges = [(held.low * (1 - _SLACK), held.high * (1 + _SLACK)) for held in self.domain]
        return [scalar_evaluator(each) for each in quantities], ranges, [quantities.index(each) for each in coordinates]

    def predict_one(self, values: Mapping[str, float]) -> tuple[float, bool]:
        """Latency in us of one batch, and whether it lies outside the measured domain.

        Args:
            values: of `symbols`, at least 1 each.

        Raises:
            FitError: the formula gives no time, or one beyond `MOST_US`.
        """
        latency = 0.0
        quantities, ranges, coordinates = self._place_one
        try:
            for within, part in self._parts_one:
                share = within(values)
                if share:
                    latency += share * part(values)
            at = [quantity(values) for quantity in quantities]
            if self.residual is not None:
                latency *= self.residual.scale_one(latency, [at[i] for i in coordinates])
        except (ArithmeticError, ValueError, KeyError) as error:
            raise self._no_time(f"{type(error).__name__}: {error}") from error
        if not 0 <= latency <= MOST_US:
            raise self._no_time(f"{latency:.3g} us")
        for x, (low, high) in zip(at, ranges):
            if not low <= x <= high:
                return latency, True
        return latency, self._borrowed

    def predict(self, columns: Mapping[str, Any]) -> tuple[Column, NDArray[np.bool_]]:
        """Latencies in us of many batches and whether each is extrapolated.

        Args:
            columns: array-like of one length for each of `symbols`.

        Raises:
            FitError: a column is missing, or the formula gives no time, or one beyond `MOST_US`.
        """
        missing = [name for name in self.symbols if name not in columns]
        if missing:
            raise FitError(
                f"{self.name}: no column {', '.join(missing)}; the formula is over {', '.join(self.symbols)}"
            )
        values = {name: np.asarray(columns[name], dtype=np.float64) for name in self.symbols}
        count = max((len(column) for column in values.values()), default=1)
        with np.errstate(all="ignore"):
            latency = np.array(np.broadcast_to(column_evaluator(self.fitted)(values), count), dtype=np.float64)
            if self.residual is not None:
                latency *= self.residual.scale(latency, values)
        if not np.all(fine := (latency >= 0) & (latency <= MOST_US)):
            raise self._no_time(f"{latency[~fine][0]:.3g} us")
        outside = np.full(count, self._borrowed)
        for held in self.domain:
            quantity = column_evaluator(held.quantity)(values)
            outside |= (quantity < held.low * (1 - _SLACK)) | (quantity > held.high * (1 + _SLACK))
        return latency, outside

    def _no_time(self, found: str) -> FitError:
        return FitError(f"{self.name}: its formula gives no time ({found}); fit again")

    def achieved(self, values: Mapping[str, float]) -> tuple[float, float]:
        """(TFLOP/s, GB/s) that the predicted latency amounts to at one point."""
        latency, _ = self.predict_one(values)
        work = scalar_evaluator(self.flops)(values), scalar_evaluator(self.bytes)(values)
        return work[0] / latency / 1e6, work[1] / latency / 1e3
