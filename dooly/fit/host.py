"""Formulas of the host's parts: steps of many kinds split by one regression for each time that was taken of them.

A step's raw time stands at its operations (``N``), requests (``R``), tokens, prompts, mixtures of experts (``X``) and
second calls of attention (``Y``).  So what one of these takes is a parameter of one formula, fitted over all steps
together, and nothing is taken away from a sample.  Where only two times together can be measured, the known one is held
fast in the regression.
"""

from collections.abc import Iterable, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from dooly.errors import FitError
from dooly.fit.formula import Formula, Held
from dooly.fit.observation import Observation
from dooly.fit.select import Data, collect, domain_of, fit_subject, parameters_of
from dooly.fit.solve import Estimate, design, intervals
from dooly.fit.target import Subject, host_subject
from dooly.fit.terms import Structure, linear_structure
from dooly.host import part_of

__all__ = ["fit_host"]

Column = NDArray[np.float64]


def fit_host(signature: str, observations: Iterable[Observation]) -> Formula:
    """Fit a part of host time, one of `dooly.host`.

    Raises:
        FitError: no such host work, or too few points.
    """
    points = tuple(observations)
    subject = host_subject(signature, points)
    if any(each.less_us for each in points):
        return _fit_difference(subject, points)
    return fit_subject(subject, points)


def _fit_difference(subject: Subject, observations: tuple[Observation, ...]) -> Formula:
    """Fit what is left of times of two things together; it is linear, and never below zero.

    A point counts by how well its whole time is known, so one that noise made negative counts as any other.  Errors are
    fractions of the whole time, too.

    Raises:
        FitError: too few points, or nothing is left.
    """
    data = collect(subject, observations)
    less_us = np.array([each.less_us for each in data.observations])
    weights = np.sqrt(data.trust) / data.latency_us
    part = part_of(subject.signature)
    every = linear_structure(() if part is not None and part.constant else subject.symbols)
    chosen = [each for size in range(1, len(every) + 1) for each in combinations(every, size)]
    found = {each: _solved(each, data, less_us, weights) for each in chosen}
    errors = {each: _left_out(each, data, less_us, weights) for each in chosen if len(each) < len(data)}
    best = min(errors, key=lambda each: (round(data.mean(errors[each]), 3), len(each)))
    if not any(found[best].coefficients):
        raise FitError(f"{subject.name}: nothing is left of its {len(data)} points; measure them again")
    worst = int(np.argmax(np.abs(errors[best])))
    mape = data.mean(errors[best])
    return Formula(
        signature=subject.signature,
        name=subject.name,
        flops=subject.flops,
        bytes=subject.bytes,
        structure=best,
        parameters=parameters_of(found[best], _bounds(found[best], data, less_us)),
        residual=None,
        domain=domain_of(data, best),
        held=Held(
            mape=mape,
            symbolic_mape=mape,
            worst_point=data.observations[worst].point,
            worst_error=float(errors[best][worst]),
            noise=float(np.median([each.spread for each in data.observations])),
            disturbed=int(np.sum(data.trust < 0.5)),
            points=len(data),
        ),
    )


def _solved(structure: Structure, data: Data, less_us: Column, weights: Column) -> Estimate:
    from scipy.optimize import nnls  # half a second of import, needed for fitting only

    matrix = np.concatenate(design(structure, data.columns, len(data)), axis=1)
    coefficients, cost = nnls(matrix * weights[:, None], (data.latency_us - less_us) * weights)
    return Estimate(structure, tuple(map(float, coefficients)), float(cost))


def _left_out(structure: Structure, data: Data, less_us: Column, weights: Column) -> Column:
    """Error at each point by a fit without it, as a fraction of its whole time."""
    errors = np.empty(len(data))
    for place in range(len(data)):
        rest, here = np.arange(len(data)) != place, np.arange(len(data)) == place
        refit = _solved(structure, data.take(rest), less_us[rest], weights[rest])
        predicted = less_us[here] + refit.predict(data.take(here).columns, 1)
        errors[place] = float(predicted[0] / data.latency_us[place] - 1.0)
    return errors


def _bounds(found: Estimate, data: Data, less_us: Column) -> Sequence[tuple[float, float]]:
    """Confidence intervals, of the points at which something is left."""
    left = data.latency_us - less_us
    kept = left > 0
    if kept.sum() <= len(found.coefficients):
        return [(0.0, float("inf"))] * len(found.coefficients)
    some = data.take(kept)
    return intervals(found, some.columns, left[kept], some.trust)
