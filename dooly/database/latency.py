"""The one time that stands for the raw samples of a point, in every table and every fit."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dooly.host import is_host_part

__all__ = ["LESS", "Latency", "latency_of", "undisturbed"]

_REACH = 1.5

LESS = "less_us"
"""Name aside the samples: what is to be taken from each of them, where only the two times together can be measured."""


class Latency(NamedTuple):
    """A time and how far it scatters.

    Fields:
        us: the time; of a difference of two it may be zero or less.
        spread: interquartile range over the median of the samples, 0.02 where half of them lie within 2 %; of those
            that count, divided by their share.
    """

    us: float
    spread: float


def latency_of(operation: str, values_us: Sequence[float], less_us: float = 0.0) -> Latency:
    """Latency of raw samples.

    Other processes only ever add time, on a busy machine to most samples.  So the latency of an operation is the median
    of the undisturbed ones.  A server waits for its host as it is, disturbed or not: work of the host takes the median
    of all, which a few stalls do not move.  A difference of two times is one of undisturbed ones.

    Args:
        operation: signature of an operation or name of a part of host time.
        less_us: to be taken from each sample.

    Raises:
        ValueError: no samples, one that is no number, or most of them not positive.

    >>> latency_of("linear", [10.0, 10.2, 9.9, 10.1, 12000.0]).us
    10.05
    >>> latency_of("host_after", [10.0, 11.0, 15.0, 400.0]).us
    13.0
    """
    values = np.asarray(values_us, dtype=np.float64)
    if not len(values) or not np.all(np.isfinite(values)):
        raise ValueError("samples: none, or not all of them numbers; measure the point again")
    if float(np.median(values)) <= 0:
        raise ValueError(f"samples: {len(values)} times, most of them not positive; measure the point again")
    counted = values if is_host_part(operation) and not less_us else _undisturbed(values)
    low, middle, high = (float(each) for each in np.quantile(counted, (0.25, 0.5, 0.75)))
    return Latency(middle - less_us, (high - low) / middle * len(values) / len(counted))


def undisturbed(values_us: Sequence[float]) -> tuple[float, ...]:
    """Positive samples within a factor of 1.5 of the first decile, sorted.

    On a quiet machine these are all of them.  A difference of two timings of which the second was disturbed can be
    negative; it is none of them.
    """
    return tuple(np.sort(_undisturbed(np.asarray(values_us, dtype=np.float64))).tolist())


def _undisturbed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    positive = values[values > 0]
    return positive[positive <= _REACH * np.quantile(positive, 0.1)] if len(positive) else positive
