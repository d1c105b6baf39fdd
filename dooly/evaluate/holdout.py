"""A formula beside points that it has not seen."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from dooly.errors import FitError
from dooly.fit.formula import Formula
from dooly.fit.observation import Observation
from dooly.fit.target import subject_of
from dooly.ir.operation import Operation

__all__ = ["Judged", "Unseen", "judge", "unseen_errors"]


@dataclass(frozen=True)
class Unseen:
    """One point that was not fitted.

    Attributes:
        error: predicted over measured latency, less 1.
        extrapolated: whether it lies outside the sizes that the formula was fitted on.
    """

    point: str
    error: float
    extrapolated: bool


@dataclass(frozen=True)
class Judged:
    """Absolute errors over a set of points, as fractions.

    Attributes:
        points: how many.
        median, mean, p90, worst: of the absolute errors.
        extrapolated: points outside the sizes that were fitted.
    """

    points: int
    median: float
    mean: float
    p90: float
    worst: float
    extrapolated: int


def unseen_errors(operation: Operation, formula: Formula, observations: Iterable[Observation]) -> list[Unseen]:
    """Errors of a formula of `operation` at points that it was not fitted to.

    Raises:
        FitError: a point does not belong to the operation.
    """
    subject = subject_of(operation)
    found: list[Unseen] = []
    for observation in observations:
        values = observation.values(subject.symbols, subject.window, subject.mixture)
        predicted, outside = formula.predict_one(values)
        found.append(Unseen(observation.point, predicted / observation.latency_us - 1.0, outside))
    return found


def judge(errors: Iterable[Unseen]) -> Judged:
    """Distribution of the errors.

    Raises:
        FitError: there are none.
    """
    errors = list(errors)
    if not errors:
        raise FitError("nothing to judge a formula by; it was fitted to every point there is")
    sizes = np.abs([each.error for each in errors])
    return Judged(
        points=len(errors),
        median=float(np.median(sizes)),
        mean=float(np.mean(sizes)),
        p90=float(np.quantile(sizes, 0.9)),
        worst=float(np.max(sizes)),
        extrapolated=sum(each.extrapolated for each in errors),
    )
