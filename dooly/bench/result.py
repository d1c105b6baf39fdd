"""The benchmark's result of a simulated run: its figures, its block of text and the keys of its JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dooly.bench.load import Arrivals
from dooly.errors import SimulationError
from dooly.simulate import Run, Trace

__all__ = ["Asked", "Bench", "measure"]

Floats = NDArray[np.float64]

_TITLES = {
    "ttft": ("TTFT", "Time to First Token"),
    "tpot": ("TPOT", "Time per Output Token (excl. 1st token)"),
    "itl": ("ITL", "Inter-token Latency"),
    "e2el": ("E2EL", "End-to-end Latency"),
    "client_queue_time": ("Client Queue Time", "Client-side Queueing"),
    "e2el_including_client_queue": ("E2EL incl. Client Queue", "Queue-inclusive End-to-end Latency"),
}
"""Metrics by the names that options and JSON keys have; their names and headers in the block."""

_GOALS = ("ttft", "tpot", "e2el")
_DETAILS = ("input_lens", "output_lens", "start_times", "ttfts", "itls", "generated_texts", "errors")


@dataclass(frozen=True)
class Asked:
    """Selection of what is reported of a run.

    Attributes:
        metrics: names, whose distributions are reported.
        percentiles: of these, 0 to 100.
        goodput: most ms of ttft, tpot and e2el that a good request has.
        details: whether the JSON lists single requests and tokens.
    """

    metrics: tuple[str, ...] = ("ttft", "tpot", "itl")
    percentiles: tuple[float, ...] = (99.0,)
    goodput: Mapping[str, float] = field(default_factory=dict[str, float])
    details: bool = False

    def __post_init__(self) -> None:
        for name in self.metrics:
            if name not in _TITLES:
                raise SimulationError(f"no metric {name!r}; expected some of {', '.join(_TITLES)}")
        for percentile in self.percentiles:
            if not 0 <= percentile <= 100:
                raise SimulationError(f"percentile {percentile:g}; expected 0 to 100")
        for name, limit in self.goodput.items():
            if name not in _GOALS or not 0 <= limit < math.inf:
                raise SimulationError(f"goodput {name}:{limit:g}; expected NAME:MS, NAME one of {', '.join(_GOALS)}")


@dataclass(frozen=True)
class Bench:
    """A run as the client sees it, seconds; one entry for each request.

    Attributes:
        run: what was simulated.
        arrivals: the client's rate.
        concurrency: most requests that it had under way; None for any number.
        duration_s: from the start of the load to the last token.
        sent_s: when each request was sent; it may have waited in the client before.
        queue_s: how long it did.
        token_s: when each of its tokens came.
    """

    run: Run
    arrivals: Arrivals
    concurrency: int | None
    duration_s: float
    sent_s: Floats
    queue_s: Floats
    token_s: tuple[Floats, ...]

    @property
    def ttft_s(self) -> Floats:
        """Time to the first token."""
        return np.array([times[0] for times in self.token_s]) - self.sent_s

    @property
    def e2el_s(self) -> Floats:
        """Time to the last token."""
        return np.array([times[-1] for times in self.token_s]) - self.sent_s

    @property
    def tpot_s(self) -> Floats:
        """Mean time per token after the first; 0 for a single one."""
        more = np.array([len(times) - 1 for times in self.token_s])
        return (self.e2el_s - self.ttft_s) / np.maximum(more, 1)

    @property
    def itl_s(self) -> list[Floats]:
        """Gaps between the tokens of each request."""
        return [np.diff(times) for times in self.token_s]

    def population_s(self, metric: str) -> Floats:
        """The population of a metric's distribution: requests, or for itl all gaps."""
        if metric == "ttft":
            return self.ttft_s
        if metric == "tpot":
            return self.tpot_s[np.array([len(times) > 1 for times in self.token_s])]
        if metric == "itl":
            return np.concatenate(self.itl_s)
        if metric == "client_queue_time":
            return self.queue_s
        return self.e2el_s + (self.queue_s if metric == "e2el_including_client_queue" else 0.0)

    def reported(self, asked: Asked) -> list[str]:
        """The metrics that apply: those with the client's queue only where it has one."""
        known = [name for name in _TITLES if name in asked.metrics]
        if self.concurrency is None:
            return [name for name in known if "client_queue" not in name]
        if math.isinf(self.arrivals.request_rate):
            known = [name for name in known if name != "e2el_including_client_queue"]
        return known

    def statistics(self, metric: str, asked: Asked) -> dict[str, float]:
        """Mean, median, standard deviation and percentiles in ms, by JSON key."""
        values = self.population_s(metric)
        values = values * 1e3 if len(values) else np.zeros(1)
        found = {f"mean_{metric}_ms": values.mean(), f"median_{metric}_ms": np.median(values)}
        found[f"std_{metric}_ms"] = values.std()
        for percentile in asked.percentiles:
            found[f"p{percentile:g}_{metric}_ms"] = np.percentile(values, percentile)
        return {name: float(value) for name, value in found.items()}

    def figures(self, asked: Asked) -> dict[str, Any]:
        """The benchmark's result: throughput, what single requests had, and the distributions asked for."""
        inputs = [request.prompt_tokens for request in self.run.requests]
        outputs = [request.output_tokens for request in self.run.requests]
        per_s, busiest = self._peaks()
        found: dict[str, Any] = {
            "duration": self.duration_s,
            "completed": len(outputs),
            "failed": 0,
            "total_input_tokens": sum(inputs),
            "total_output_tokens": sum(outputs),
            "request_throughput": len(outputs) / self.duration_s,
            "request_goodput": self._goodput(asked.goodput) if asked.goodput else None,
            "output_throughput": sum(outputs) / self.duration_s,
            "total_token_throughput": (sum(inputs) + sum(outputs)) / self.duration_s,
            "input_lens": inputs,
            "output_lens": outputs,
            "ttfts": self.ttft_s.tolist(),
            "itls": [gaps.tolist() for gaps in self.itl_s],
            "latencies": self.e2el_s.tolist(),
            "start_times": self.sent_s.tolist(),
            "queue_times": self.queue_s.tolist(),
            "generated_texts": [""] * len(outputs),
            "errors": [""] * len(outputs),
            "max_output_tokens_per_s": per_s,
            "max_concurrent_requests": busiest,
            "rtfx": 0.0,
        }
        if self.arrivals.ramp_up is not None:
            found["rps_change_events"] = self._rate_changes()
        for metric in self.reported(asked):
            found |= self.statistics(metric, asked)
        return found

    def json(self, asked: Asked, label: str | None, tokenizer: str | None) -> dict[str, Any]:
        """The file that the benchmark would save: the load, then `figures`."""
        rate, ramp_up = self.arrivals.request_rate, self.arrivals.ramp_up
        found: dict[str, Any] = {
            "date": datetime.now().strftime("%Y%m%d-%H%M%S"),
            "endpoint_type": "simulated",
            "backend": "simulated",
            "label": label,
            "model_id": self.run.model,
            "tokenizer_id": tokenizer or self.run.model,
            "num_prompts": len(self.run.requests),
            "request_rate": rate if rate < math.inf else "inf",
            "burstiness": self.arrivals.burstiness,
            "max_concurrency": self.concurrency,
        }
        if ramp_up is not None:
            found["ramp_up_strategy"] = ramp_up.strategy
            found["ramp_up_start_rps"] = ramp_up.start
            found["ramp_up_end_rps"] = ramp_up.end
        left_out = () if asked.details else _DETAILS
        return found | {name: value for name, value in self.figures(asked).items() if name not in left_out}

    def block(self, asked: Asked, gpus: int) -> str:
        """The text that the benchmark prints, and below it output tokens/s of one GPU and of one user.

        A user's rate is what a request's tokens come at after its first: 1,000 / mean TPOT.
        """
        figures = self.figures(asked)
        rate = self.arrivals.request_rate
        mean_tpot_s = float(self.population_s("tpot").mean()) if len(self.population_s("tpot")) else 0.0
        rows: list[tuple[str, int | float]] = [
            ("Successful requests:", figures["completed"]),
            ("Failed requests:", figures["failed"]),
        ]
        rows += [] if self.concurrency is None else [("Maximum request concurrency:", self.concurrency)]
        rows += [] if math.isinf(rate) else [("Request rate configured (RPS):", float(rate))]
        rows += [
            ("Benchmark duration (s):", self.duration_s),
            ("Total input tokens:", figures["total_input_tokens"]),
            ("Total generated tokens:", figures["total_output_tokens"]),
            ("Request throughput (req/s):", figures["request_throughput"]),
        ]
        rows += [("Request goodput (req/s):", figures["request_goodput"])] if asked.goodput else []
        rows += [
            ("Output token throughput (tok/s):", figures["output_throughput"]),
            ("Peak output token throughput (tok/s):", figures["max_output_tokens_per_s"]),
            ("Peak concurrent requests:", float(figures["max_concurrent_requests"])),
            ("Total token throughput (tok/s):", figures["total_token_throughput"]),
        ]
        lines = [f"{' Serving Benchmark Result ':=^50}", *_lines(rows)]
        for metric in self.reported(asked):
            name, header = _TITLES[metric]
            values = list(self.statistics(metric, asked).values())
            told = ("Mean", "Median", "", *(f"P{percentile:g}" for percentile in asked.percentiles))
            lines.append(f"{header:-^50}")
            lines += _lines([(f"{what} {name} (ms):", value) for what, value in zip(told, values) if what])
        lines.append(f"{'Per GPU and User':-^50}")
        lines += _lines(
            [
                ("Output tokens/s per GPU:", figures["output_throughput"] / gpus),
                ("Output tokens/s per user:", 1.0 / mean_tpot_s if mean_tpot_s else 0.0),
            ]
        )
        return "\n".join([*lines, "=" * 50])

    def _goodput(self, limits: Mapping[str, float]) -> float:
        """Requests/s that keep all limits (ms)."""
        good = np.ones(len(self.sent_s), dtype=bool)
        for name, limit in limits.items():
            good &= {"ttft": self.ttft_s, "tpot": self.tpot_s, "e2el": self.e2el_s}[name] <= limit / 1e3
        return float(good.sum()) / self.duration_s

    def _peaks(self) -> tuple[float, int]:
        """Most tokens that came, and most requests that were under way, in one second since the first was sent."""
        start_s = float(self.sent_s.min())
        seconds = (np.concatenate(self.token_s) - start_s).astype(np.int64)
        first = (self.sent_s - start_s).astype(np.int64)
        last = (self.sent_s + self.e2el_s - start_s).astype(np.int64)
        changes = np.zeros(last.max() + 2, dtype=np.int64)
        np.add.at(changes, first, 1)
        np.add.at(changes, last + 1, -1)
        return float(np.bincount(seconds).max()), int(changes.cumsum().max())

    def _rate_changes(self) -> list[dict[str, Any]]:
        """Each whole rate that a ramp-up reached, and when, seconds after the start."""
        ramp_up, count = self.arrivals.ramp_up, len(self.sent_s)
        assert ramp_up is not None
        due_s = self.sent_s - self.queue_s
        last = int(ramp_up.start)
        events: list[dict[str, Any]] = [{"rps": last, "timestamp": 0.0}]
        for index in range(count):
            reached = int(ramp_up.rate(index, count))
            events += [{"rps": rate, "timestamp": float(due_s[index])} for rate in range(last + 1, reached + 1)]
            last = max(last, reached)
        return events


def _lines(rows: Sequence[tuple[str, int | float]]) -> list[str]:
    """Figures below each other, numbers that are not whole with two digits."""
    return [
        f"{name:<40} {value:<10.2f}" if isinstance(value, float) else f"{name:<40} {value:<10}" for name, value in rows
    ]


def measure(run: Run, trace: Trace, arrivals: Arrivals, concurrency: int | None) -> Bench:
    """Return what the client that sent `trace` saw of a simulated run.

    Raises:
        SimulationError: the run has no times of tokens.
    """
    if run.tokens is None:
        raise SimulationError(f"{run.trace}: the run has no times of tokens; only a simulation keeps them")
    tokens = run.tokens
    sent_s = np.array([request.arrival_s for request in run.requests])
    due_s = np.array([request.arrival_s for request in trace.requests])
    return Bench(
        run=run,
        arrivals=arrivals,
        concurrency=concurrency,
        duration_s=max(request.finish_s for request in run.requests),
        sent_s=sent_s,
        queue_s=sent_s - due_s,
        token_s=tuple(np.array(tokens.of(index, r.output_tokens)) for index, r in enumerate(run.requests)),
    )
