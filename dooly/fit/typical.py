"""The typical one of several raw times."""

from collections.abc import Sequence

import numpy as np

from dooly.errors import FitError

__all__ = ["typical_us"]

_REACH = 1.5


def typical_us(values_us: Sequence[float]) -> tuple[float, float]:
    """Latency and spread of raw samples.

    Other processes only ever add time, on a busy machine to most samples.  So the latency is the median of the
    undisturbed ones: those within a factor of 1.5 of the first decile.  On a quiet machine these are all of them.

    Returns:
        (latency in us, interquartile range of the undisturbed samples over their median, divided by their share).

    Raises:
        FitError: no samples, or one that is not a positive time.

    >>> typical_us([10.0, 10.2, 9.9, 10.1, 12000.0])[0]
    10.05
    """
    values = np.asarray(values_us, dtype=np.float64)
    if not len(values) or not np.all(np.isfinite(values)) or float(values.min()) <= 0:
        raise FitError(
            f"samples: {len(values)} times, some not positive; expected positive times, measure the point again"
        )
    undisturbed = values[values <= _REACH * np.quantile(values, 0.1)]
    low, middle, high = (float(q) for q in np.quantile(undisturbed, (0.25, 0.5, 0.75)))
    return middle, (high - low) / middle * len(values) / len(undisturbed)
