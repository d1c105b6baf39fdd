"""Robust non-negative estimation of the parameters of one structure, with confidence intervals."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dooly.fit.evaluator import column_evaluator
from dooly.fit.terms import Contribution, Structure, Term

__all__ = ["Estimate", "design", "estimate", "intervals"]

Column = NDArray[np.float64]
Matrix = NDArray[np.float64]

_STEPS = 40
_SCALE_FLOOR = 0.005  # log ratio: below half a percent nothing is an outlier


@dataclass(frozen=True)
class Estimate:
    """A structure without its useless contributions, and a coefficient (us per unit of quantity) for each that is left.

    Attributes:
        cost: robust sum of squared log ratios, the number that was minimized.
    """

    structure: Structure
    coefficients: tuple[float, ...]
    cost: float

    def predict(self, columns: Mapping[str, Column], count: int) -> Column:
        """us, float64[count]."""
        blocks = design(self.structure, columns, count)
        return _predict(blocks, np.array(self.coefficients))[0]


def design(structure: Structure, columns: Mapping[str, Column], count: int) -> list[Matrix]:
    """For each term what its contributions come to in us at parameter 1, float64[count, contributions]."""
    return [np.column_stack([_quantity(c, columns, count) for c in term]) for term in structure]


def _quantity(contribution: Contribution, columns: Mapping[str, Column], count: int) -> Column:
    values = np.broadcast_to(column_evaluator(contribution.quantity)(columns), count)
    values = values * column_evaluator(contribution.within)(columns)
    return values / (contribution.kind.rate or 1.0)


def estimate(
    structure: Structure,
    columns: Mapping[str, Column],
    latency_us: Column,
    trust: Column,
    start: Estimate | None = None,
) -> Estimate | None:
    """Minimize a robust loss of log(predicted / measured) over coefficients >= 0.

    A maximum is fitted by alternating between which contribution counts at each point and the coefficients; several
    starts, the best is kept.  Contributions that count nowhere are dropped.

    Args:
        columns: float64[points] by request symbol; latency_us: float64[points], positive.
        trust: float64[points], how much each point counts, positive.
        start: an estimate of the same structure from similar points, instead of the several starts.

    Returns:
        None if the points cannot tell the parameters apart or predict nothing at a point.
    """
    best: Estimate | None = None
    blocks = design(structure, columns, len(latency_us))
    for assigned in _starts(blocks) if start is None else [_assigned(blocks, np.array(start.coefficients))]:
        coefficients, cost = _alternate(blocks, latency_us, trust, assigned)
        if best is None or cost < best.cost:
            best = Estimate(structure, tuple(map(float, coefficients)), cost)
    if best is None or not np.isfinite(best.cost):
        return None
    kept = _useful(best, blocks)
    if kept != structure:
        return estimate(kept, columns, latency_us, trust) if kept else None
    _, active = _predict(blocks, np.array(best.coefficients))
    if np.linalg.matrix_rank(active / np.linalg.norm(active, axis=0), tol=1e-6) < active.shape[1]:
        return None
    return best


def _starts(blocks: list[Matrix]) -> list[list[NDArray[np.intp]]]:
    """Assignments of points to the contributions of each term: quantities scaled by several of their quantiles."""
    first = [np.zeros(len(block), np.intp) for block in blocks]
    starts: list[list[NDArray[np.intp]]] = []
    for quantile in (0.25, 0.5, 0.75):
        start = list(first)
        for i, block in enumerate(blocks):
            if block.shape[1] == 1:
                continue
            scaled = block / np.maximum(np.quantile(block, quantile, axis=0), 1e-300)
            start[i] = np.argmax(scaled, axis=1)
        starts.append(start)
    return starts if any(block.shape[1] > 1 for block in blocks) else [first]


def _alternate(
    blocks: list[Matrix], latency_us: Column, trust: Column, assigned: list[NDArray[np.intp]]
) -> tuple[Column, float]:
    from scipy.optimize import nnls  # half a second of import, needed for fitting only

    active = _active(blocks, assigned)
    weights = np.sqrt(trust) / latency_us
    best, least, stale = np.zeros(active.shape[1]), np.inf, 0
    for _ in range(_STEPS):
        norms = np.maximum(np.linalg.norm(active * weights[:, None], axis=0), 1e-300)
        try:
            scaled, _ = nnls(active * weights[:, None] / norms, latency_us * weights)
        except RuntimeError:  # it did not converge: what was found so far stands
            break
        coefficients = scaled / norms
        predicted, active = _predict(blocks, coefficients)
        if not np.all(predicted > 0):
            break
        ratio = np.log(predicted / latency_us)
        scale = _scale(ratio)
        cost = float(np.sum(trust * _soft_l1(ratio, 0.05)))
        stale = 0 if cost < least * (1 - 1e-4) else stale + 1
        if cost < least:
            best, least = coefficients, cost
        if stale > 3:
            break
        weights = _weights(ratio, predicted, latency_us, scale) * np.sqrt(trust)
    return best, least


def _weights(ratio: Column, predicted: Column, latency_us: Column, scale: float) -> Column:
    """Square roots of weights with which least squares of ``predicted - latency`` has the optimum of the log ratio."""
    difference = predicted - latency_us
    with np.errstate(invalid="ignore", divide="ignore"):
        slope = np.where(np.abs(ratio) > 1e-6, ratio / difference, 1.0 / latency_us)
    return np.sqrt(slope / predicted / np.sqrt(1.0 + (ratio / scale) ** 2))


def _soft_l1(ratio: Column, scale: float) -> Column:
    return 2.0 * scale**2 * (np.sqrt(1.0 + (ratio / scale) ** 2) - 1.0)


def _scale(ratio: Column) -> float:
    """Beyond this log ratio a point counts less: 1.5 robust standard deviations."""
    return max(1.5 * 1.4826 * float(np.median(np.abs(ratio))), _SCALE_FLOOR)


def _predict(blocks: list[Matrix], coefficients: Column) -> tuple[Column, Matrix]:
    """us, and the matrix whose product with the coefficients it is: zero where a contribution is not the largest."""
    active = _active(blocks, _assigned(blocks, coefficients))
    return active @ coefficients, active


def _assigned(blocks: list[Matrix], coefficients: Column) -> list[NDArray[np.intp]]:
    """Which contribution of each term is the largest at each point."""
    assigned: list[NDArray[np.intp]] = []
    offset = 0
    for block in blocks:
        width = block.shape[1]
        assigned.append(np.argmax(block * coefficients[offset : offset + width], axis=1))
        offset += width
    return assigned


def _active(blocks: list[Matrix], assigned: list[NDArray[np.intp]]) -> Matrix:
    masked = [
        block * (index[:, None] == np.arange(block.shape[1])) for block, index in zip(blocks, assigned, strict=True)
    ]
    return np.concatenate(masked, axis=1)


def _useful(found: Estimate, blocks: list[Matrix]) -> Structure:
    """The structure without contributions of coefficient zero, or that are the largest at fewer than two points."""
    _, active = _predict(blocks, np.array(found.coefficients))
    counts = np.count_nonzero(active, axis=0)
    kept: list[Term] = []
    offset = 0
    for term in found.structure:
        alone = len(term) == 1
        members = [
            c for i, c in enumerate(term, start=offset) if found.coefficients[i] > 0 and (alone or counts[i] >= 2)
        ]
        offset += len(term)
        if members:
            kept.append(tuple(members))
    return tuple(kept)


def intervals(
    found: Estimate, columns: Mapping[str, Column], latency_us: Column, trust: Column, level: float = 0.95
) -> list[tuple[float, float]]:
    """Confidence interval of each coefficient: weighted least squares (statsmodels) on the tangent at the optimum.

    Returns:
        (low >= 0, high) each; (0, inf) when there are no more points than parameters.
    """
    from scipy.stats import t as student
    from statsmodels.regression.linear_model import WLS  # a second of import, needed only here

    values = np.array(found.coefficients)
    predicted, active = _predict(design(found.structure, columns, len(latency_us)), values)
    free = len(latency_us) - len(values)
    if free < 1:
        return [(0.0, float("inf"))] * len(values)
    ratio = np.log(predicted / latency_us)
    tangent = active / predicted[:, None]
    norms = np.linalg.norm(tangent, axis=0)
    weights = trust / np.sqrt(1.0 + (ratio / _scale(ratio)) ** 2)
    fitted = WLS(tangent / norms @ (values * norms) - ratio, tangent / norms, weights=weights).fit()  # pyright: ignore[reportArgumentType] - typed by its default, takes an array
    reach = np.asarray(fitted.bse, dtype=float) / norms * float(student.ppf(0.5 + level / 2, free))
    return [(max(0.0, float(v - r)), float(v + r)) for v, r in zip(values, reach, strict=True)]
