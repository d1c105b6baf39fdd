"""The one time that stands for several raw ones."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dooly.errors import FitError

__all__ = ["served_us", "typical_us"]

_REACH = 1.5
_STALL = 3.0


def typical_us(values_us: Sequence[float]) -> tuple[float, float]:
    """Latency and spread of raw samples.

    Other processes only ever add time, on a busy machine to most samples.  So the latency is the median of the
    undisturbed ones: those within a factor of 1.5 of the first decile.  On a quiet machine these are all of them.  A
    sample that is a difference of two timings (`dooly.executor.timing.gpu`) is not positive where the second was
    disturbed; it is none of them.

    Returns:
        (latency in us, interquartile range of the undisturbed samples over their median, divided by their share).

    Raises:
        FitError: no samples, one that is no number, or most of them not positive.

    >>> typical_us([10.0, 10.2, 9.9, 10.1, 12000.0])[0]
    10.05
    """
    values = _numbers(values_us)
    if float(np.median(values)) <= 0:
        raise FitError(f"samples: {len(values)} times, most of them not positive; measure the point again")
    positive = values[values > 0]
    undisturbed = positive[positive <= _REACH * np.quantile(positive, 0.1)]
    low, middle, high = (float(q) for q in np.quantile(undisturbed, (0.25, 0.5, 0.75)))
    return middle, (high - low) / middle * len(values) / len(undisturbed)


def served_us(values_us: Sequence[float]) -> tuple[float, float]:
    """Time and spread of raw samples of the host's own work.

    A server waits for its host as it is, disturbed or not, and each of its steps adds to what a request takes: so this
    is the mean.  What takes three times as long as the median happens once (code that is compiled) and is left out.

    Returns:
        (time in us, interquartile range over the median).

    Raises:
        FitError: no samples, or one that is not a positive time.

    >>> served_us([10.0, 11.0, 15.0, 400.0])[0]
    12.0
    """
    values = _numbers(values_us)
    if float(values.min()) <= 0:
        raise FitError(f"samples: {len(values)} times, some not positive; measure the point again")
    low, middle, high = (float(q) for q in np.quantile(values, (0.25, 0.5, 0.75)))
    return float(values[values <= _STALL * middle].mean()), (high - low) / middle


def _numbers(values_us: Sequence[float]) -> NDArray[np.float64]:
    values = np.asarray(values_us, dtype=np.float64)
    if not len(values) or not np.all(np.isfinite(values)):
        raise FitError("samples: none, or not all of them numbers; measure the point again")
    return values
