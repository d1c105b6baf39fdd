"""When every output token came: the ends of the steps, and with which of them each request was given a token."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

__all__ = ["Start", "TokenTimes"]


class Start(NamedTuple):
    """A token that did not come with the step after that of the token before it: the first, or one after preemption.

    Attributes:
        tokens: that the request then had.
        step: number of the step, from 0.
    """

    tokens: int
    step: int


@dataclass(frozen=True)
class TokenTimes:
    """Times of tokens in a run, kept small: between two starts a request has a token with every step.

    Attributes:
        ends_s: when the tokens of each step were out, steps without any included.
        starts: of each request, in order of the trace.
    """

    ends_s: array[float]
    starts: tuple[tuple[Start, ...], ...]

    def of(self, request: int, tokens: int) -> array[float]:
        """Seconds at which each of the `tokens` output tokens of a request came.

        >>> TokenTimes(array("d", [1.0, 2.0, 3.0, 4.0]), ((Start(1, 0), Start(2, 2)),)).of(0, 3).tolist()
        [1.0, 3.0, 4.0]
        """
        found = array("d")
        for start, later in pairwise((*self.starts[request], Start(tokens + 1, 0))):
            found.extend(self.ends_s[start.step : start.step + later.tokens - start.tokens])
        return found
