"""When a client sends its requests: all at once, at a rate, or at one that rises."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Literal

import numpy as np

from dooly.errors import TraceError
from dooly.simulate import Trace, TraceRequest

__all__ = ["Arrivals", "RampUp", "arriving"]


@dataclass(frozen=True)
class RampUp:
    """A rate that rises from the first request to the last, in even steps or by even factors.

    Attributes:
        start, end: requests/s.
    """

    strategy: Literal["linear", "exponential"]
    start: float
    end: float

    def __post_init__(self) -> None:
        if not 0 < self.start <= self.end < math.inf:
            raise TraceError(
                f"ramp-up from {self.start:g} to {self.end:g} requests/s; expected rates above 0 that do not fall"
            )

    def rate(self, index: int, count: int) -> float:
        """Requests/s at one of `count` requests.

        >>> [RampUp("linear", 1, 3).rate(i, 3) for i in range(3)]
        [1.0, 2.0, 3.0]
        """
        progress = index / max(count - 1, 1)
        if self.strategy == "linear":
            return self.start + (self.end - self.start) * progress
        return self.start * (self.end / self.start) ** progress


@dataclass(frozen=True)
class Arrivals:
    """The client's rate.

    Attributes:
        request_rate: requests/s; infinite for all at once.
        burstiness: shape of the gamma distribution of the gaps: 1 is Poisson, less more bursty, infinite even.
        ramp_up: a rate that rises, in place of `request_rate`.
        seed: of the draws; the same as the benchmark's gives the same gaps.
    """

    request_rate: float = math.inf
    burstiness: float = 1.0
    ramp_up: RampUp | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.request_rate > 0:
            raise TraceError(f"request rate of {self.request_rate:g}; expected more than 0 requests/s")
        if not self.burstiness > 0:
            raise TraceError(f"burstiness of {self.burstiness:g}; expected more than 0")
        if self.ramp_up is not None and self.request_rate < math.inf:
            raise TraceError("a request rate beside a ramp-up; the ramp-up decides the rate: give one of them")
        if not 0 <= self.seed < 2**32:
            raise TraceError(f"seed {self.seed}; expected 0 to {2**32 - 1}")

    def times_s(self, count: int) -> list[float]:
        """When each of `count` requests is due, seconds after the start; at a fixed rate the last at count / rate.

        >>> Arrivals(2.0, math.inf).times_s(4)
        [0.5, 1.0, 1.5, 2.0]
        """
        draws = np.random.RandomState(self.seed)
        gaps: list[float] = []
        for index in range(count):
            rate = self.request_rate if self.ramp_up is None else self.ramp_up.rate(index, count)
            if math.isinf(rate):
                gaps.append(0.0)
            elif math.isinf(self.burstiness):
                gaps.append(1.0 / rate)
            else:
                gaps.append(float(draws.gamma(self.burstiness, 1.0 / (rate * self.burstiness))))
        times = list(accumulate(gaps))
        if self.ramp_up is not None or not times[-1]:
            return times
        stretch = count / self.request_rate / times[-1]
        return [time * stretch for time in times]


def arriving(name: str, requests: Sequence[TraceRequest], arrivals: Arrivals) -> Trace:
    """Requests in order, each due when `arrivals` says."""
    times = arrivals.times_s(len(requests))
    return Trace(name, tuple(replace(request, arrival_s=time) for request, time in zip(requests, times, strict=True)))
