"""dooly from Python: a model on a device, the time of its steps, and how it serves a load.

Each answer is a frozen value with ``frame()``, a polars table with units in the names of its columns.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property

import polars as pl

from dooly.batch import Batch, BatchColumns
from dooly.bench import Arrivals, Asked, Bench, RandomPrompts, measure
from dooly.bench.datasets import random_prompts
from dooly.bench.load import arriving
from dooly.engine.options import EngineOptions
from dooly.fit import Formula
from dooly.fit.format import line
from dooly.ir import Program
from dooly.predict import Breakdown, SavedModel, StepTimes
from dooly.simulate import Outcome, Run, Summary, Targets, evaluate, frontier, request_frame, summarize
from dooly.simulate.explore import Candidate
from dooly.workspace.defaults import DATABASE
from dooly.workspace.limits import check_step
from dooly.workspace.lowering import lower
from dooly.workspace.serving import Served, clipped, load_trace

__all__ = [
    "Benchmark",
    "Exploration",
    "LoadedModel",
    "Prediction",
    "Predictions",
    "Simulation",
    "explore",
    "load",
    "operations",
]


@dataclass(frozen=True)
class Prediction:
    """The time of one engine step.

    Attributes:
        batch: what the step computes.
        breakdown: its time by operation and host part.
    """

    batch: Batch
    breakdown: Breakdown

    @property
    def total_us(self) -> float:
        """Time of the step, us."""
        return self.breakdown.cost.total_us

    def frame(self) -> pl.DataFrame:
        """A row for each operation and host part: name, signature, kind, count, each_us, total_us, share (0 to 1),
        extrapolated."""
        return pl.DataFrame([asdict(row) for row in self.breakdown.rows])


@dataclass(frozen=True)
class Predictions:
    """The times of many engine steps, in the order in which they were asked for."""

    batches: tuple[Batch, ...]
    times: StepTimes

    def frame(self) -> pl.DataFrame:
        """A row for each step: kind, requests, tokens, host_before_us, device_us, host_after_us, total_us,
        extrapolated."""
        return pl.DataFrame(
            {
                "kind": [batch.kind for batch in self.batches],
                "requests": [batch.count for batch in self.batches],
                "tokens": [batch.tokens for batch in self.batches],
                **{
                    name: getattr(self.times, name)
                    for name in ("host_before_us", "device_us", "host_after_us", "total_us", "extrapolated")
                },
            }
        )


@dataclass(frozen=True)
class Simulation:
    """A trace that was served on a simulated clock."""

    run: Run

    @cached_property
    def summary(self) -> Summary:
        """Latencies and throughput."""
        return summarize(self.run)

    def frame(self) -> pl.DataFrame:
        """A row for each request, as `dooly.simulate.request_frame`."""
        return request_frame(self.run)


@dataclass(frozen=True)
class Benchmark:
    """A load as the client of `vllm bench serve` would have seen it.

    Attributes:
        gpus: tensor-parallel ranks.
    """

    result: Bench
    gpus: int
    asked: Asked = field(default_factory=Asked)

    def json(self) -> dict[str, object]:
        """The keys that `vllm bench serve --save-result` writes."""
        return self.result.json(self.asked, None, None)

    def frame(self) -> pl.DataFrame:
        """A row for each request: sent_s, queue_s, ttft_ms, tpot_ms, e2el_ms."""
        found = self.result
        return pl.DataFrame(
            {
                "sent_s": found.sent_s,
                "queue_s": found.queue_s,
                "ttft_ms": 1e3 * found.ttft_s,
                "tpot_ms": 1e3 * found.tpot_s,
                "e2el_ms": 1e3 * found.e2el_s,
            }
        )

    def __str__(self) -> str:
        return self.result.block(self.asked, self.gpus)


@dataclass(frozen=True)
class Exploration:
    """Configurations that were tried on one load.

    Attributes:
        outcomes: all of them.
        best: those that keep the targets and that no other beats in throughput, latency and cost.
    """

    outcomes: tuple[Outcome, ...]
    best: tuple[Outcome, ...]

    def frame(self) -> pl.DataFrame:
        """A row for each configuration, with ``best`` beside the fields of `dooly.simulate.Outcome`."""
        chosen = {id(outcome) for outcome in self.best}
        return pl.DataFrame([{**outcome.json(), "best": id(outcome) in chosen} for outcome in self.outcomes])


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model on a device, under an engine's settings; `load` makes it."""

    served: Served

    @property
    def saved(self) -> SavedModel:
        """Operations and formulas, in the form that can be written to a file."""
        return self.served.saved

    def predict(self, batch: Batch | str) -> Prediction:
        """Predict the time of one step.

        Args:
            batch: or its text, ``NEW:CACHED[xN],...``.

        Raises:
            PredictError: the engine would not run such a step.
        """
        step = Batch.parse(batch) if isinstance(batch, str) else batch
        self._check(step)
        return Prediction(step, self.saved.steps.breakdown(step))

    def predict_many(self, batches: Sequence[Batch | str]) -> Predictions:
        """Predict the times of many steps at once; at least one.

        Raises:
            PredictError: the engine would not run one of them.
        """
        steps = tuple(Batch.parse(each) if isinstance(each, str) else each for each in batches)
        for step in steps:
            self._check(step)
        return Predictions(steps, self.saved.steps.step_times(BatchColumns.of(steps)))

    def _check(self, step: Batch) -> None:
        check_step(self.saved, step, self.served.settings.max_num_seqs, self.served.settings.max_num_batched_tokens)

    def formulas(self) -> pl.DataFrame:
        """A row for each formula that predictions rest on: name, signature, points, held_out_error (a fraction),
        formula."""
        return pl.DataFrame([_formula_row(each) for each in self.saved.formulas.values()])

    def simulate(
        self,
        trace: str = "azure-conv",
        *,
        requests: int | None = None,
        rate: float | None = None,
        seed: int = 2023,
        fast: bool | None = None,
    ) -> Simulation:
        """Serve a trace on a simulated clock.

        Args:
            trace: a synthetic one by its name, or a file.
            requests: only the first so many.
            rate: mean arrivals per second; the trace's own if not given.
            seed: of synthetic traces.
            fast: with the compact scheduler; None where that covers the model.

        Raises:
            DoolyError: the trace cannot be read, or the compact scheduler does not cover the model.
        """
        load_ = clipped(load_trace(trace, requests, rate, seed=seed), self.served.settings.max_model_len)
        return Simulation(self.served.run(load_, fast=fast))

    def bench(
        self,
        *,
        random_input_len: int = 1024,
        random_output_len: int = 128,
        random_range_ratio: float = 0.0,
        random_prefix_len: int = 0,
        num_prompts: int = 1000,
        max_concurrency: int | None = None,
        request_rate: float = math.inf,
        burstiness: float = 1.0,
        seed: int = 0,
        fast: bool | None = None,
    ) -> Benchmark:
        """Send the load of `vllm bench serve --dataset-name random`; names and units are those of its options.

        Raises:
            DoolyError: the load makes no sense.
        """
        ratio = random_range_ratio
        lengths = RandomPrompts(random_input_len, random_output_len, ratio, ratio, random_prefix_len)
        arrivals = Arrivals(request_rate, burstiness, seed=seed)
        load_ = arriving("random", random_prompts(lengths, num_prompts, seed=seed), arrivals)
        run = self.served.run(load_, fast=fast, concurrency=max_concurrency)
        return Benchmark(measure(run, load_, arrivals, max_concurrency), self.saved.tensor_parallel)


def load(
    model: str,
    *,
    gpu: str | None = None,
    tensor_parallel_size: int = 1,
    attention_backend: str | None = None,
    engine: EngineOptions | None = None,
    db: str = DATABASE,
) -> LoadedModel:
    """Load a model with its step times.

    Args:
        model: bundled name, ``config.json`` or its folder.
        gpu: a GPU that was measured, e.g. ``h200``; None for this machine.
        tensor_parallel_size: ranks.
        attention_backend: None for the engine's choice.
        engine: options of the engine; those that are not given have vLLM's own values.
        db: latency database, a file or a PostgreSQL URL.  What ships is known beside it.

    Raises:
        DoolyError: there is no such model or GPU, or something was not measured; says what to do.
    """
    platform = None if gpu is None else gpu.lower()
    asked = engine or EngineOptions()
    return LoadedModel(Served.of(model, asked, db, attention_backend, tensor_parallel_size, platform))


def operations(*models: str, gpu: str | None = None, tensor_parallel_size: int = 1) -> Program:
    """Lower models to one table of distinct operations; needs vLLM where a model is not bundled or not on a GPU.

    Args:
        models: bundled names, ``config.json`` files or their folders, ``.ir`` files.
        gpu: whose code is captured; None for the CPU's.

    Raises:
        DoolyError: a model is not usable.
    """
    return lower(models, tensor_parallel_size, platform=None if gpu is None else gpu.lower())


def explore(
    models: Sequence[LoadedModel],
    *,
    rates: Sequence[float],
    trace: str = "azure-conv",
    requests: int = 300,
    targets: Targets | None = None,
    prices: dict[str, float] | None = None,
    seed: int = 2023,
) -> Exploration:
    """Serve a trace at several rates with several models, devices or settings, and keep the best.

    Args:
        models: at least one.
        rates: mean arrivals per second, Poisson.
        targets: latencies to keep; None for no limit.
        prices: of one device for an hour, by the device's name.

    Raises:
        DoolyError: the trace cannot be read, or the compact scheduler does not cover a model.
    """
    longest = min(model.served.settings.max_model_len for model in models)
    served = clipped(load_trace(trace, requests, None), longest)
    candidates = [Candidate(model.saved, model.served.settings, rate) for model in models for rate in rates]
    outcomes = evaluate(
        candidates, served, lambda each, rate: each.poisson(rate, seed=seed), targets or Targets(), prices or {}
    )
    return Exploration(tuple(outcomes), tuple(frontier(outcomes)))


def _formula_row(formula: Formula) -> dict[str, object]:
    return {
        "name": formula.name,
        "signature": formula.signature,
        "points": formula.held.points,
        "held_out_error": formula.held.mape,
        "formula": line(formula),
    }
