"""The residual of the symbolic part: a bounded factor, interpolated between measured points, gone far from them."""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import exp, log, log2
from typing import cast

import numpy as np
from numpy.typing import NDArray

from dooly.fit.evaluator import column_evaluator
from dooly.ir.expr import Expr, symbol

__all__ = ["BOUND", "Curve", "Field", "Residual", "fit_curve", "fit_field"]

Column = NDArray[np.float64]

BOUND = log(2.0)
"""Largest correction, log ratio: a factor of two either way."""

_FADE = log(4.0)
"""Beyond the knots the correction is gone after a factor of four; longer than BOUND keeps the whole monotone."""
_STEP = log(1.5)
"""How close the knots of a curve are at least."""
_SPIKE, _APART = log(1.15), log(1 + 16 / 512)
"""A time that lies by more above what is between its neighbours is of that size alone, not of those around it; unless
one of them is so near that it shows a step, or how wide the slow choice is: no further than 16 rows at 512."""
_LENGTHS = (1.0, 1.5, 2.0, 3.0, 4.0)
_RIDGES = (0.03, 0.1, 0.3, 1.0)


@dataclass(frozen=True)
class Curve:
    """For one axis: corrected times at measured sizes, straight between them on logarithmic axes.

    Beyond the ends the correction fades with the symbolic time, so slowly that the whole never falls there where the
    symbolic part does not.

    Attributes:
        axis: request symbol.
        at: its values, ascending, positive.
        latency_us: corrected time at each, positive.
        ends_us: symbolic time at the first and the last.
    """

    axis: str
    at: tuple[float, ...]
    latency_us: tuple[float, ...]
    ends_us: tuple[float, float]

    def __post_init__(self) -> None:
        if len(self.at) != len(self.latency_us) or not self.at:
            raise ValueError(f"curve with {len(self.at)} sizes and {len(self.latency_us)} times")
        if any(not a < b for a, b in zip((0.0, *self.at), self.at)):
            raise ValueError("sizes of a curve must be positive and ascending")
        if min(*self.latency_us, *self.ends_us) <= 0:
            raise ValueError("times of a curve must be positive")

    @cached_property
    def _logs(self) -> tuple[list[float], list[float], tuple[float, float], tuple[float, float]]:
        """Logarithms of sizes, times, symbolic times at both ends, and corrections there."""
        times = [log(value) for value in self.latency_us]
        ends = log(self.ends_us[0]), log(self.ends_us[1])
        return [log(value) for value in self.at], times, ends, (times[0] - ends[0], times[-1] - ends[1])

    @property
    def coordinates(self) -> tuple[Expr, ...]:
        """The coordinates that `scale_one` asks for."""
        return (symbol(self.axis),)

    def scale_one(self, symbolic_us: float, place: Sequence[float]) -> float:
        """Factor for one batch, of which `place` holds the coordinates."""
        at, times, ends, corrections = self._logs
        x = log(place[0])
        i = bisect_right(at, x)
        if i == len(at) and x <= at[-1]:
            return exp(times[-1]) / symbolic_us
        if i in (0, len(at)):
            side = 0 if i == 0 else 1
            return exp(corrections[side] * max(0.0, 1.0 - abs(log(symbolic_us) - ends[side]) / _FADE))
        part = (x - at[i - 1]) / (at[i] - at[i - 1])
        return exp(times[i - 1] + (times[i] - times[i - 1]) * part) / symbolic_us

    def scale(self, symbolic_us: Column, values: Mapping[str, Column]) -> Column:
        """Factors for many batches."""
        at, times, ends, corrections = self._logs
        x, symbolic = np.log(values[self.axis]), np.log(symbolic_us)
        inside = np.interp(x, at, times) - symbolic
        fading = [
            each * np.maximum(0.0, 1.0 - np.abs(symbolic - end) / _FADE)
            for each, end in zip(corrections, ends, strict=True)
        ]
        return cast(Column, np.exp(np.where(x < at[0], fading[0], np.where(x > at[-1], fading[1], inside))))


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

    def scale_one(self, symbolic_us: float, place: Sequence[float]) -> float:  # noqa: ARG002 - shared by both
        """Factor for one batch, of which `place` holds the coordinates."""
        matrix, weights = self._kernel
        at = [log2(x) for x in place]
        square = 0.0
        for x in at:
            square += x * x
        exponent = matrix.dot(np.array((*at, square, 1.0)))
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


def fit_curve(
    axis: str,
    at: Column,
    symbolic: Callable[[Column], Column],
    latency_us: Column,
    trust: Column,
    *,
    rising: bool = True,
) -> Curve:
    """A curve through the measured points, of the shape of the symbolic part between them.

    Args:
        at: float64[points], distinct and ascending values of `axis`; at least one.
        symbolic: us at any sizes.
        trust: float64[points] in (0, 1], the share of its correction that a point gets; the rest is none where times
            rise, and its neighbours' where they need not.
        rising: more work cannot take less time: where the times fall as the size grows, take their mean level instead.
            Else they may, and a single high one inside is left out unless a neighbour is within 16 rows at 512: a slow
            choice of kernel is narrower than measured sizes are apart.
    """
    ratio = np.clip(np.log(latency_us / symbolic(at)), -BOUND, BOUND)
    if rising:
        ratio = trust * ratio
    else:
        between = _of_neighbours(np.log(at), ratio)
        gaps = np.concatenate([[0.0], np.diff(np.log(at)), [0.0]])
        alone = (ratio - between > _SPIKE) & (np.minimum(gaps[:-1], gaps[1:]) > _APART)
        ratio = np.where(alone, between, trust * ratio + (1 - trust) * between)
    places = np.arange(np.log(at[0]), np.log(at[-1]), _STEP)
    knots = np.unique(np.concatenate([at, np.exp(places[1:])]))
    weight = np.where(np.isin(knots, at), np.interp(knots, at, trust), 1e-3)
    level = np.log(symbolic(knots)) + np.interp(np.log(knots), np.log(at), ratio)
    times = np.exp(_isotonic(level, weight) if rising else level)
    first, last = symbolic(at[[0, -1]]).tolist()
    return Curve(axis, tuple(map(float, knots)), tuple(map(float, times)), (first, last))


def _of_neighbours(at: Column, values: Column) -> Column:
    """At each place what lies between the values left and right of it; at the ends that of the only one."""
    if len(at) < 3:
        return values[::-1]
    part = (at[1:-1] - at[:-2]) / (at[2:] - at[:-2])
    return np.concatenate([values[1:2], values[:-2] + (values[2:] - values[:-2]) * part, values[-2:-1]])


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
    for length in _LENGTHS:
        kernel = np.exp(-0.5 * distance / length**2)
        for ridge in _RIDGES:
            inverse = np.linalg.inv(kernel + np.diag(ridge / trust))
            weights = inverse @ target
            error = float(np.average(np.abs(weights / np.diag(inverse)), weights=trust))
            if error < least * (1 - 1e-6):
                least = error
                found = Field(tuple(coordinates), tuple(map(tuple, anchors.tolist())), tuple(weights.tolist()), length)
    return found
