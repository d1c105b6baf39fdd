"""What the symbolic part leaves over: a bounded factor, interpolated between measured points and gone far from them."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import exp, log, log2
from typing import cast

import numpy as np
from numpy.typing import NDArray

from dooly.fit.evaluator import Evaluator, column_evaluator, scalar_evaluator
from dooly.ir.expr import Expr

__all__ = ["BOUND", "Curve", "Field", "Residual", "fit_curve", "fit_field"]

Column = NDArray[np.float64]

BOUND = log(2.0)
"""Largest correction, log ratio: a factor of two either way."""

_FADE = log(
    4.0
)  # beyond the knots the correction is gone after a factor of four; longer than BOUND keeps the whole monotone


@dataclass(frozen=True)
class Curve:
    """For one axis: a monotone map from symbolic to corrected time, log-linear between knots.

    Since the symbolic part never falls with the axis and the map never falls either, neither does their composition.

    Attributes:
        symbolic_us: ascending, positive.
        factor: corrected over symbolic time at each knot.
    """

    symbolic_us: tuple[float, ...]
    factor: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.symbolic_us) != len(self.factor) or not self.symbolic_us:
            raise ValueError(f"curve with {len(self.symbolic_us)} knots and {len(self.factor)} factors")
        if any(not a < b for a, b in zip((0.0, *self.symbolic_us), self.symbolic_us)) or min(self.factor) <= 0:
            raise ValueError("knots of a curve must be positive and ascending, its factors positive")

    @cached_property
    def _knots(self) -> tuple[list[float], list[float]]:
        """Log of the symbolic time and log factor, with the points where the correction has faded."""
        at = [log(value) for value in self.symbolic_us]
        return [at[0] - _FADE, *at, at[-1] + _FADE], [0.0, *(log(value) for value in self.factor), 0.0]

    def scale_one(self, symbolic_us: float, values: Mapping[str, float]) -> float:  # noqa: ARG002 - shared by both
        """Factor for one batch."""
        at, level = self._knots
        x = log(symbolic_us)
        i = bisect_right(at, x)
        if i in (0, len(at)):
            return 1.0
        return exp(level[i - 1] + (level[i] - level[i - 1]) * (x - at[i - 1]) / (at[i] - at[i - 1]))

    def scale(self, symbolic_us: Column, values: Mapping[str, Column]) -> Column:  # noqa: ARG002 - shared by both
        """Factors for many batches."""
        at, level = self._knots
        return cast(Column, np.exp(np.interp(np.log(symbolic_us), at, level)))


@dataclass(frozen=True)
class Field:
    """For several axes: Gaussian kernels over the base-2 logarithm of the coordinates.

    Attributes:
        coordinates: expressions over the request symbols.
        anchors: measured points, one value of each coordinate (not its logarithm).
        weights: log ratio that each anchor adds at itself.
        length: width of the kernel, in doublings.
    """

    coordinates: tuple[Expr, ...]
    anchors: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]
    length: float

    def __post_init__(self) -> None:
        if len(self.anchors) != len(self.weights) or not self.anchors or self.length <= 0:
            raise ValueError(
                f"field with {len(self.anchors)} anchors, {len(self.weights)} weights, length {self.length}"
            )
        if any(len(anchor) != len(self.coordinates) or min(anchor) <= 0 for anchor in self.anchors):
            raise ValueError(f"each anchor of the field needs {len(self.coordinates)} positive coordinates")

    @cached_property
    def _kernel(self) -> tuple[NDArray[np.float64], Column]:
        """Matrix whose product with (x_1 .. x_d, |x|^2, 1), x in doublings, is the exponent at each anchor; weights."""
        places = np.log2(np.array(self.anchors))
        sharp = 0.5 / self.length**2
        square = np.sum(places**2, axis=1)
        columns = (2 * sharp * places, np.full(len(places), -sharp), -sharp * square)
        return np.ascontiguousarray(np.column_stack(columns)), np.array(self.weights)

    @cached_property
    def _quantities(self) -> list[Evaluator]:
        return [scalar_evaluator(e) for e in self.coordinates]

    def scale_one(self, symbolic_us: float, values: Mapping[str, float]) -> float:  # noqa: ARG002 - shared by both
        """Factor for one batch."""
        matrix, weights = self._kernel
        at = [log2(quantity(values)) for quantity in self._quantities]
        at += (sum([x * x for x in at]), 1.0)
        exponent = matrix.dot(np.array(at))
        level = float(weights.dot(np.exp(exponent, exponent)))
        return exp(BOUND if level > BOUND else max(level, -BOUND))

    def scale(self, symbolic_us: Column, values: Mapping[str, Column]) -> Column:
        """Factors for many batches."""
        matrix, weights = self._kernel
        count = len(symbolic_us)
        at = [np.broadcast_to(np.log2(column_evaluator(e)(values)), count) for e in self.coordinates]
        at += [sum((x * x for x in at), np.zeros(count)), np.ones(count)]
        exponent = np.stack(at, axis=1) @ matrix.T
        level = np.exp(exponent, out=exponent) @ weights
        return np.exp(np.clip(level, -BOUND, BOUND))


Residual = Curve | Field


def fit_curve(symbolic_us: Column, latency_us: Column, trust: Column) -> Curve | None:
    """Knots at the measured points; where the measured times fall as the symbolic ones rise, their mean level instead.

    Args:
        trust: float64[points] in (0, 1], the share of its correction that a point gets.

    Returns:
        None for fewer than three distinct symbolic times.
    """
    order = np.argsort(symbolic_us, kind="stable")
    at = np.log(symbolic_us[order])
    weight = trust[order]
    level = at + weight * np.clip(np.log(latency_us[order]) - at, -BOUND, BOUND)
    first = np.concatenate([[True], np.diff(at) > 1e-9])
    group = np.cumsum(first) - 1
    sizes = np.bincount(group, weights=weight).astype(np.float64)
    knots = at[first]
    if len(knots) < 3:
        return None
    rising = _isotonic(np.bincount(group, weights=level * weight) / sizes, sizes)
    factor = np.exp(np.clip(rising - knots, -BOUND, BOUND))
    return Curve(tuple(map(float, np.exp(knots))), tuple(map(float, factor)))


def _isotonic(values: Column, sizes: Column) -> Column:
    """Closest non-decreasing sequence: neighbours that fall are pooled."""
    pools: list[tuple[float, float, int]] = []
    for value, size in zip(values.tolist(), sizes.tolist(), strict=True):
        mean, weight, members = value, size, 1
        while pools and pools[-1][0] > mean:
            other, more, count = pools.pop()
            mean = (mean * weight + other * more) / (weight + more)
            weight, members = weight + more, members + count
        pools.append((mean, weight, members))
    return np.repeat([mean for mean, _, _ in pools], [members for _, _, members in pools])


def fit_field(
    coordinates: Sequence[Expr],
    columns: Mapping[str, Column],
    symbolic_us: Column,
    latency_us: Column,
    trust: Column,
) -> Field | None:
    """Kernel ridge regression of the log ratio; width and ridge by leave-one-out error, in closed form.

    Args:
        trust: float64[points] in (0, 1]; a point with less gets a larger ridge.

    Returns:
        None for fewer than six points, or when no setting beats no correction at all.
    """
    count = len(latency_us)
    if count < 6:
        return None
    target = np.clip(np.log(latency_us / symbolic_us), -BOUND, BOUND)
    anchors = np.stack([np.broadcast_to(column_evaluator(e)(columns), count) for e in coordinates], axis=1)
    places = np.log2(anchors)
    distance = np.sum((places[:, None, :] - places[None, :, :]) ** 2, axis=2)
    least = float(np.average(np.abs(target), weights=trust))
    found: Field | None = None
    for length in (0.7, 1.0, 1.5, 2.0):
        kernel = np.exp(-0.5 * distance / length**2)
        for ridge in (0.03, 0.1, 0.3, 1.0):
            inverse = np.linalg.inv(kernel + np.diag(ridge / trust))
            weights = inverse @ target
            error = float(np.average(np.abs(weights / np.diag(inverse)), weights=trust))
            if error < least * (1 - 1e-6):
                least = error
                found = Field(tuple(coordinates), tuple(map(tuple, anchors.tolist())), tuple(weights.tolist()), length)
    return found
