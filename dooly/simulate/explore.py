"""Which configurations meet latency targets, and what the best of them cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dooly.engine.settings import EngineSettings
from dooly.errors import SimulationError
from dooly.predict import SavedModel
from dooly.simulate.memory import check_compact
from dooly.simulate.metrics import Summary, request_frame, summarize
from dooly.simulate.simulator import simulate_fast
from dooly.simulate.trace import Trace

__all__ = ["Candidate", "Outcome", "Targets", "evaluate", "frontier"]


@dataclass(frozen=True)
class Targets:
    """Latencies to keep at a percentile of the requests; None sets no limit.

    Attributes:
        ttft_ms, tpot_ms: most that the percentile may be.
        percentile: above 0, below 100.
    """

    ttft_ms: float | None = None
    tpot_ms: float | None = None
    percentile: float = 90.0

    def __post_init__(self) -> None:
        for name in ("ttft_ms", "tpot_ms"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise SimulationError(f"target {name} is {value:g}; expected more than 0 ms")
        if not 0 < self.percentile < 100:
            raise SimulationError(f"percentile {self.percentile:g}; expected one above 0 and below 100")


@dataclass(frozen=True, eq=False)
class Candidate:
    """One configuration: step times of a model on a device, engine settings, and a rate of arrivals."""

    steps: SavedModel
    settings: EngineSettings
    requests_per_s: float


@dataclass(frozen=True)
class Outcome:
    """How a configuration did.

    Attributes:
        device, tp, backend: where the model runs.
        max_num_seqs, max_num_batched_tokens, num_blocks: of the engine.
        requests_per_s: offered.
        ttft_ms, tpot_ms: at the percentile of the targets; tpot_ms is None if no request had a second token.
        served_per_s, output_tokens_per_s: of one instance, all its ranks together.
        tokens_per_s_per_device: output tokens over the number of ranks.
        cost: of a million output tokens, in the unit of the prices; None without a price for the device.
        preemptions: over all requests.
        meets: whether both targets are kept.
        source: what the step times rest on where dooly did not measure the device; else empty.
    """

    device: str
    tp: int
    backend: str
    max_num_seqs: int
    max_num_batched_tokens: int
    num_blocks: int
    requests_per_s: float
    ttft_ms: float
    tpot_ms: float | None
    served_per_s: float
    output_tokens_per_s: float
    tokens_per_s_per_device: float
    cost: float | None
    preemptions: int
    meets: bool
    source: str = ""

    def json(self) -> dict[str, Any]:
        """Plain numbers and text."""
        return asdict(self)


def evaluate(
    candidates: Sequence[Candidate],
    trace: Trace,
    arrive: Callable[[Trace, float], Trace],
    targets: Targets,
    prices: Mapping[str, float],
    progress: Callable[[int, int], None] | None = None,
) -> list[Outcome]:
    """Serve the trace with each candidate on a simulated clock.

    Args:
        candidates: at least one.
        trace: whose requests are served.
        arrive: gives the trace with its requests arriving at a rate.
        prices: of one device for an hour, by device.
        progress: called with (done, all) after each.

    Raises:
        SimulationError: settings that the compact scheduler does not cover for this model.
    """
    found: list[Outcome] = []
    for candidate in candidates:
        settings = candidate.settings
        saved = candidate.steps.under(settings.max_num_seqs, settings.max_num_batched_tokens)
        check_compact(saved.operations, settings)
        served = arrive(trace, candidate.requests_per_s)
        run = simulate_fast(saved.name, served, saved.steps.step_time, settings, power=saved.steps.power)
        latencies = request_frame(run)
        share = targets.percentile / 100
        ttft_ms = latencies["ttft_ms"].quantile(share, "linear")
        assert ttft_ms is not None  # a run has at least one request
        tpot_ms = latencies["tpot_ms"].quantile(share, "linear")
        found.append(_outcome(candidate, summarize(run), ttft_ms, tpot_ms, targets, prices))
        if progress is not None:
            progress(len(found), len(candidates))
    return found


def _outcome(
    candidate: Candidate,
    summary: Summary,
    ttft_ms: float,
    tpot_ms: float | None,
    targets: Targets,
    prices: Mapping[str, float],
) -> Outcome:
    saved, settings = candidate.steps, candidate.settings
    ranks = saved.tensor_parallel
    price = prices.get(saved.device)
    per_s = summary.output_tokens_per_s
    return Outcome(
        device=saved.device,
        tp=ranks,
        backend=saved.settings.get("backend", "-"),
        max_num_seqs=settings.max_num_seqs,
        max_num_batched_tokens=settings.max_num_batched_tokens,
        num_blocks=settings.blocks,
        requests_per_s=candidate.requests_per_s,
        ttft_ms=ttft_ms,
        tpot_ms=tpot_ms,
        served_per_s=summary.requests_per_s,
        output_tokens_per_s=per_s,
        tokens_per_s_per_device=per_s / ranks,
        cost=None if price is None else price * ranks / (per_s * 3600) * 1e6,
        preemptions=summary.preemptions,
        meets=(targets.ttft_ms is None or ttft_ms <= targets.ttft_ms)
        and (targets.tpot_ms is None or tpot_ms is None or tpot_ms <= targets.tpot_ms),
        source="; ".join(saved.sources),
    )


def frontier(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Return the outcomes that meet the targets and that no other beats in throughput per device, latencies, cost.

    One beats another if it is at least as good in each of the four and better in one; cost counts only where all have
    one.  Sorted by throughput per device, most first.
    """
    meeting = [outcome for outcome in outcomes if outcome.meets]
    priced = all(outcome.cost is not None for outcome in meeting)
    merits = [_merits(outcome, priced) for outcome in meeting]
    best = [
        outcome
        for outcome, mine in zip(meeting, merits)
        if not any(other != mine and all(a <= b for a, b in zip(other, mine)) for other in merits)
    ]
    return sorted(best, key=lambda outcome: -outcome.tokens_per_s_per_device)


def _merits(outcome: Outcome, priced: bool) -> tuple[float, ...]:
    """Less is better."""
    cost = outcome.cost if priced and outcome.cost is not None else 0.0
    return -outcome.tokens_per_s_per_device, outcome.ttft_ms, outcome.tpot_ms or 0.0, cost
