"""The roofline of a GPU by its datasheet, and how much of it measured points reach."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dooly.fit.evaluator import column_evaluator
from dooly.fit.observation import Observation
from dooly.fit.target import Subject
from dooly.hardware.gpus import PlatformSpec

__all__ = ["Reached", "reached", "roofline_us"]

Column = NDArray[np.float64]


@dataclass(frozen=True)
class Reached:
    """Most TFLOP/s and GB/s among measured points, by the operation's own FLOPs and bytes."""

    tflops: float
    gbs: float

    def beside(self, datasheet: PlatformSpec | None) -> str:
        """In words: ``reaches 781 TFLOP/s (79 % of 989) and 4,210 GB/s (88 % of 4,800)``.

        Memory beyond the peak was not read from memory but from a cache.
        """
        if datasheet is None:
            return f"reaches {self.tflops:,.4g} TFLOP/s and {self.gbs:,.4g} GB/s"
        pairs = ((self.tflops, datasheet.tflops, "TFLOP/s"), (self.gbs, datasheet.gbs, "GB/s"))
        return "reaches " + " and ".join(
            f"{value:,.0f} {unit} ({value / peak:.0%} of {peak:,.0f})" for value, peak, unit in pairs
        )


def reached(subject: Subject, observations: Sequence[Observation]) -> Reached:
    """Return what at least one point reaches.

    Raises:
        FitError: a point does not belong to the operation.
    """
    columns = subject.columns(observations)
    latency = np.array([each.latency_us for each in observations])
    flops, moved = _work(subject, columns, len(latency))
    return Reached(float(np.max(flops / latency)) / 1e6, float(np.max(moved / latency)) / 1e3)


def roofline_us(subject: Subject, columns: Mapping[str, Column], datasheet: PlatformSpec) -> Column:
    """The least time that the datasheet allows, float64[points]: the longer of compute and memory."""
    count = len(next(iter(columns.values())))
    flops, moved = _work(subject, columns, count)
    return np.maximum(flops / (datasheet.tflops * 1e6), moved / (datasheet.gbs * 1e3))


def _work(subject: Subject, columns: Mapping[str, Column], count: int) -> tuple[Column, Column]:
    flops, moved = (np.broadcast_to(column_evaluator(e)(columns), count) for e in (subject.flops, subject.bytes))
    return flops.astype(np.float64), moved.astype(np.float64)
