"""Summaries of a run: latency percentiles and throughput.

TTFT is the time to the first token, queueing included; TPOT the mean time per output token after the first (requests
with one token have none); E2E the time to the last token.
"""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from dooly.files import write_bytes
from dooly.simulate.records import Run

__all__ = ["Distribution", "Summary", "request_frame", "summarize", "write_requests"]


@dataclass(frozen=True)
class Distribution:
    """Mean and percentiles of a latency over requests, ms (interpolated linearly between neighbours)."""

    mean_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Summary:
    """One run in figures.

    Attributes:
        ttft, tpot, e2e: over requests; tpot is None if every request had a single output token.
        requests, steps: how many.
        duration_s: from the first arrival to the last token.
        requests_per_s, output_tokens_per_s: over that duration.
        mean_running: requests in a step, averaged over steps.
        preemptions: over all requests.
        cached_tokens: prompt tokens found in the prefix cache.
        clipped: requests shortened to fit the model.
        wall_s: seconds that the run itself took.
    """

    ttft: Distribution
    tpot: Distribution | None
    e2e: Distribution
    requests: int
    steps: int
    duration_s: float
    requests_per_s: float
    output_tokens_per_s: float
    mean_running: float
    preemptions: int
    cached_tokens: int
    clipped: int
    wall_s: float

    def json(self) -> dict[str, Any]:
        """Plain dictionaries and numbers."""
        return asdict(self)


def request_frame(run: Run) -> pl.DataFrame:
    """One row per request: arrival_s, prompt_tokens, output_tokens, cached_tokens, preemptions, ttft_ms, tpot_ms
    (null for a single output token), e2e_ms."""
    requests = run.requests
    return pl.DataFrame(
        {
            "arrival_s": [r.arrival_s for r in requests],
            "prompt_tokens": [r.prompt_tokens for r in requests],
            "output_tokens": [r.output_tokens for r in requests],
            "cached_tokens": [r.cached_tokens for r in requests],
            "preemptions": [r.preemptions for r in requests],
            "ttft_ms": [r.ttft_s * 1e3 for r in requests],
            "tpot_ms": [None if r.tpot_s is None else r.tpot_s * 1e3 for r in requests],
            "e2e_ms": [r.e2e_s * 1e3 for r in requests],
        },
        schema_overrides={"tpot_ms": pl.Float64},
    )


def write_requests(run: Run, path: str | Path) -> None:
    """Write `request_frame` as Parquet.

    Raises:
        DoolyError: the file cannot be written.
    """
    content = io.BytesIO()
    request_frame(run).write_parquet(content)
    write_bytes(path, content.getvalue())


def distribution(values: pl.Series) -> Distribution | None:
    """Return the distribution of a column in ms, nulls left out; None if nothing is left."""
    kept = values.drop_nulls()
    if kept.is_empty():
        return None
    mean, *quantiles = (
        kept.to_frame("v")
        .select(
            pl.col("v").mean(),
            *(pl.col("v").quantile(q, "linear").alias(f"q{q}") for q in (0.5, 0.9, 0.99)),
        )
        .row(0)
    )
    return Distribution(mean, *quantiles)


def summarize(run: Run) -> Summary:
    """Latency distributions and throughput of a run."""
    frame = request_frame(run)
    ttft, e2e = distribution(frame["ttft_ms"]), distribution(frame["e2e_ms"])
    assert ttft is not None
    assert e2e is not None  # a run has at least one request
    duration_s = max(r.finish_s for r in run.requests) - min(r.arrival_s for r in run.requests)
    return Summary(
        ttft=ttft,
        tpot=distribution(frame["tpot_ms"]),
        e2e=e2e,
        requests=len(run.requests),
        steps=run.step_count,
        duration_s=duration_s,
        requests_per_s=len(run.requests) / duration_s,
        output_tokens_per_s=sum(r.output_tokens for r in run.requests) / duration_s,
        mean_running=run.mean_running,
        preemptions=sum(r.preemptions for r in run.requests),
        cached_tokens=sum(r.cached_tokens for r in run.requests),
        clipped=run.clipped,
        wall_s=run.wall_s,
    )
