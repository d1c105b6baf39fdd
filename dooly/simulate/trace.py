"""Arrival traces: when requests arrive, how long they are, and which beginnings they share."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import numpy as np
import polars as pl

from dooly.errors import TraceError

__all__ = ["MAX_TOKENS", "PREFIX_BLOCK", "Trace", "TraceRequest"]

PREFIX_BLOCK = 512
"""Tokens of a prompt that one prefix id stands for where nothing else is said (as Mooncake publishes them)."""

MAX_TOKENS = 2**31 - 1


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """One request.

    Attributes:
        arrival_s: seconds after the first one.
        prompt_tokens, output_tokens: its lengths.
        prefix: ids of its leading blocks of `prefix_block` tokens: prompts that begin with the same ids begin with
            the same tokens.  The prompt may end in the last one; what no id covers is like no other prompt.
        prefix_block: tokens of the prompt that one of these ids stands for; the same in a whole trace.
    """

    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    prefix: tuple[int, ...] = ()
    prefix_block: int = PREFIX_BLOCK

    def __post_init__(self) -> None:
        if not (math.isfinite(self.arrival_s) and self.arrival_s >= 0):
            raise TraceError(f"arrival of {self.arrival_s} s; expected a number of seconds, 0 or more")
        for name, tokens in (("prompt", self.prompt_tokens), ("output", self.output_tokens)):
            if not 1 <= tokens <= MAX_TOKENS:
                raise TraceError(f"{tokens} {name} tokens; expected 1 to {MAX_TOKENS}")
        if self.prefix and (min(self.prefix) < 0 or (len(self.prefix) - 1) * self.prefix_block >= self.prompt_tokens):
            raise TraceError(
                f"{len(self.prefix)} prefix ids for {self.prompt_tokens} prompt tokens; expected ids from 0, at most "
                f"one for each {self.prefix_block} tokens"
            )


@dataclass(frozen=True)
class Trace:
    """Requests in order of arrival; time zero is the arrival of the first.

    Attributes:
        name: where it comes from (file name or generator).
        requests: at least one; arrivals never decrease.
        clipped: how many requests `clip` has shortened.
        notes: what a reader should know about how its file was read, one line each.

    Raises:
        TraceError: there is no request, prefix ids stand for different numbers of tokens, or an arrival precedes the
            one before it.
    """

    name: str
    requests: tuple[TraceRequest, ...]
    clipped: int = 0
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.requests:
            raise TraceError(f"{self.name}: the trace holds no request")
        if len({request.prefix_block for request in self.requests}) > 1:
            raise TraceError(f"{self.name}: prefix ids stand for different numbers of tokens; expected one number")
        for index, (earlier, later) in enumerate(pairwise(self.requests), start=2):
            if later.arrival_s < earlier.arrival_s:
                raise TraceError(f"{self.name}: request {index} arrives before the one above it; sort by arrival")

    def __len__(self) -> int:
        return len(self.requests)

    @property
    def duration_s(self) -> float:
        """Seconds from the first arrival to the last."""
        return self.requests[-1].arrival_s - self.requests[0].arrival_s

    @property
    def rate(self) -> float:
        """Mean arrivals per second; infinite when all arrive at once."""
        return (len(self) - 1) / self.duration_s if self.duration_s > 0 else math.inf

    def first(self, count: int) -> Trace:
        """The first `count` requests (all, if there are fewer)."""
        if count < 1:
            raise TraceError(f"asked for the first {count} requests of {self.name}; expected at least 1")
        return replace(self, requests=self.requests[:count])

    def at_rate(self, requests_per_s: float) -> Trace:
        """The same requests, arrivals stretched or squeezed in proportion to a mean of `requests_per_s`."""
        _check_rate(requests_per_s)
        if math.isinf(self.rate):
            raise TraceError(
                f"{self.name}: all requests arrive at once, so they have no rate; ask for poisson or fixed arrivals"
            )
        factor = self.rate / requests_per_s
        return replace(self, requests=tuple(replace(r, arrival_s=r.arrival_s * factor) for r in self.requests))

    def poisson(self, requests_per_s: float, *, seed: int) -> Trace:
        """The same requests in the same order, with independent exponential gaps of that mean rate."""
        _check_rate(requests_per_s)
        uniform = np.random.default_rng(seed).random(len(self) - 1)  # its stream is the same in all versions of NumPy
        gaps: list[float] = (-np.log1p(-uniform) / requests_per_s).tolist()
        return self._arriving(accumulate(gaps, initial=0.0))

    def fixed(self, requests_per_s: float) -> Trace:
        """The same requests in the same order, at equal gaps."""
        _check_rate(requests_per_s)
        return self._arriving(index / requests_per_s for index in range(len(self)))

    def _arriving(self, arrivals_s: Iterable[float]) -> Trace:
        moved = (replace(r, arrival_s=arrival_s) for r, arrival_s in zip(self.requests, arrivals_s, strict=True))
        return replace(self, requests=tuple(moved))

    def clip(self, max_model_len: int) -> Trace:
        """Shorten what does not fit: output to half of `max_model_len` tokens, then prompt to what is left.

        `clipped` of the result counts the requests that were changed, so that a report can say it.
        """
        if max_model_len < 2:
            raise TraceError(f"maximum model length of {max_model_len}; expected at least 2 tokens")
        kept: list[TraceRequest] = []
        clipped = self.clipped
        for request in self.requests:
            if request.prompt_tokens + request.output_tokens > max_model_len:
                output = min(request.output_tokens, max_model_len // 2)
                prompt = min(request.prompt_tokens, max_model_len - output)
                prefix = request.prefix[: -(-prompt // request.prefix_block)]
                request = replace(request, prompt_tokens=prompt, output_tokens=output, prefix=prefix)
                clipped += 1
            kept.append(request)
        return replace(self, requests=tuple(kept), clipped=clipped)

    def frame(self) -> pl.DataFrame:
        """Columns arrival_s, prompt_tokens, output_tokens."""
        return pl.DataFrame(
            {
                "arrival_s": [r.arrival_s for r in self.requests],
                "prompt_tokens": [r.prompt_tokens for r in self.requests],
                "output_tokens": [r.output_tokens for r in self.requests],
            },
            schema={"arrival_s": pl.Float64, "prompt_tokens": pl.Int64, "output_tokens": pl.Int64},
        )


def _check_rate(requests_per_s: float) -> None:
    if not (math.isfinite(requests_per_s) and requests_per_s > 0):
        raise TraceError(f"rate of {requests_per_s} requests/s; expected a positive number")
