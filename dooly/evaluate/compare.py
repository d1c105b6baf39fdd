"""Predicted beside measured: step times class by class, request latencies, and the noise that no prediction can beat.

Errors are relative to the measurement, in percent; a bias is positive where the prediction is too long.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dooly.batch import Batch, StepClass, StepCost
from dooly.errors import SimulationError
from dooly.predict import PowerState, StepModel
from dooly.simulate.records import Run, StepRecord

__all__ = ["RequestError", "StepError", "Validation", "compare", "compare_requests", "compare_steps", "costs_along"]

Floats = NDArray[np.float64]
Part = Literal["total", "device"]
Metric = Literal["ttft", "tpot", "e2e"]
KINDS: tuple[StepClass, ...] = ("decode", "prefill", "mixed")


@dataclass(frozen=True)
class StepError:
    """Predicted against measured time of the steps of one class.

    Attributes:
        kind: of the steps; see Batch.kind.
        mode: CUDA graph mode: FULL, PIECEWISE or NONE; empty where there are none.
        part: the whole step, or the time from calling the model to the end of its operations.
        count: steps compared, over all measured runs.
        measured_us, predicted_us: medians.
        error_percent, error_p90_percent: median and 90th percentile of the absolute error of single steps.
        bias_percent: median of the signed error.
        noise_percent: median deviation of measured steps from the median of steps alike (see `compare_steps`); None
            where no two steps were alike.
    """

    kind: StepClass
    mode: str
    part: Part
    count: int
    measured_us: float
    predicted_us: float
    error_percent: float
    error_p90_percent: float
    bias_percent: float
    noise_percent: float | None


@dataclass(frozen=True)
class RequestError:
    """Simulated against measured latency over requests.

    Attributes:
        metric: which latency.
        measured_ms, simulated_ms: medians over requests (measured: of each request's mean over the runs).
        mape_percent: mean absolute error of single requests.
        mean_error_percent, p50_error_percent, p90_error_percent, p99_error_percent: signed error of the mean and the
            percentiles over requests.
        noise_percent: `mape_percent` of one measured run against the mean of the others; None with a single run.
    """

    metric: Metric
    measured_ms: float
    simulated_ms: float
    mape_percent: float
    mean_error_percent: float
    p50_error_percent: float
    p90_error_percent: float
    p99_error_percent: float
    noise_percent: float | None


@dataclass(frozen=True)
class Validation:
    """All of it for one model and trace."""

    model: str
    trace: str
    scheduling: Literal["sync", "async"]
    runs: int
    steps: tuple[StepError, ...]
    requests: tuple[RequestError, ...]

    def json(self) -> dict[str, Any]:
        """Plain dictionaries, lists and numbers."""
        return asdict(self)


def compare(measured: Sequence[Run], predicted: Sequence[Sequence[StepCost]], simulated: Run) -> Validation:
    """Compare measured runs of one trace with predictions.

    Args:
        measured: at least one run, all with the same scheduling.
        predicted: for each run, the predicted cost of each of the steps that it lists, in order.
        simulated: the same trace on the simulated clock.

    Raises:
        SimulationError: nothing was measured, or the three do not belong together.
    """
    return Validation(
        model=simulated.model,
        trace=simulated.trace,
        scheduling="async" if simulated.settings.async_scheduling else "sync",
        runs=len(measured),
        steps=compare_steps(measured, predicted),
        requests=compare_requests(measured, simulated),
    )


def costs_along(model: StepModel, run: Run) -> list[StepCost]:
    """Predicted cost of each step that a run lists, of a device that has done those before it when they were begun."""
    state, free_s = PowerState(model.power), 0.0  # when the device had really done the step before
    costs: list[StepCost] = []
    for step in run.steps:
        cost = model.step_time(step.batch)
        begin_s = max(free_s, step.start_s + step.host_before_us / 1e6)
        served = cost._replace(device_us=state.device_us(cost, begin_s))
        free_s = begin_s + step.device_us / 1e6
        costs.append(served._replace(total_us=cost.total_us + served.span_us(idle=True) - cost.span_us(idle=True)))
    return costs


def compare_steps(measured: Sequence[Run], predicted: Sequence[Sequence[StepCost]]) -> tuple[StepError, ...]:
    """One entry per class of step that occurred, way in which its kernels were launched, and part of a step.

    With asynchronous scheduling a step waits for the one before it, so that only the model's part is compared.

    Noise: steps count as alike when they have the same class, requests and new tokens, and context (cached tokens in
    all) within about 5 %.
    """
    if len(measured) != len(predicted) or any(
        len(run.steps) != len(costs) for run, costs in zip(measured, predicted, strict=False)
    ):
        raise SimulationError("predictions and measured steps differ in number; predict every step of every run")
    groups: defaultdict[tuple[StepClass, str, Part], list[_Pair]] = defaultdict(list)
    for run, costs in zip(measured, predicted, strict=True):
        overlaps = run.settings.async_scheduling
        for step, cost in zip(run.steps, costs, strict=True):
            kind, mode = step.batch.kind, step.mode
            groups[kind, mode, "device"].append((step, step.device_us, cost.span_us(idle=not overlaps)))
            if not overlaps:
                groups[kind, mode, "total"].append((step, step.total_us, cost.total_us))
    order = sorted(groups, key=lambda key: (KINDS.index(key[0]), key[1], key[2] == "device"))
    return tuple(_step_error(*key, groups[key]) for key in order)


_Pair: TypeAlias = tuple[StepRecord, float, float]
"""A step, and what it took and was predicted to take, us."""


def _step_error(kind: StepClass, mode: str, part: Part, members: list[_Pair]) -> StepError:
    steps = [step for step, _, _ in members]
    measured, predicted = (np.array([pair[place] for pair in members]) for place in (1, 2))
    signed = (predicted - measured) / measured * 100
    return StepError(
        kind=kind,
        mode=mode,
        part=part,
        count=len(steps),
        measured_us=float(np.median(measured)),
        predicted_us=float(np.median(predicted)),
        error_percent=float(np.median(np.abs(signed))),
        error_p90_percent=float(np.quantile(np.abs(signed), 0.9)),
        bias_percent=float(np.median(signed)),
        noise_percent=_step_noise(steps, measured),
    )


def _alike(batch: Batch) -> tuple[int, int, int]:
    """The same for steps that should take about the same time."""
    context = sum(cached for _, cached in batch.requests)
    return len(batch.requests), batch.tokens, round(np.log1p(context) / 0.05)


def _step_noise(steps: list[StepRecord], measured: Floats) -> float | None:
    groups: defaultdict[tuple[int, int, int], list[float]] = defaultdict(list)
    for step, value in zip(steps, measured.tolist(), strict=True):
        groups[_alike(step.batch)].append(value)
    deviations = [
        np.abs(np.array(group) - np.median(group)) / np.median(group) * 100
        for group in groups.values()
        if len(group) > 1
    ]
    return float(np.median(np.concatenate(deviations))) if deviations else None


def compare_requests(measured: Sequence[Run], simulated: Run) -> tuple[RequestError, ...]:
    """One entry each for TTFT, TPOT (if any request has it) and end-to-end latency."""
    if not measured:
        raise SimulationError("nothing was measured; record at least one run")
    shape = [(r.prompt_tokens, r.output_tokens) for r in simulated.requests]
    if any([(r.prompt_tokens, r.output_tokens) for r in run.requests] != shape for run in measured):
        raise SimulationError("the measured and the simulated run served different requests")
    several = [r.output_tokens > 1 for r in simulated.requests]
    errors: list[RequestError] = []
    everyone = [True] * len(shape)
    metrics: tuple[tuple[Metric, list[bool]], ...] = (("ttft", everyone), ("tpot", several), ("e2e", everyone))
    for metric, members in metrics:
        kept = np.array(members)
        if any(members):
            runs = np.stack([_latencies(run, metric)[kept] for run in measured])
            errors.append(_request_error(metric, runs, _latencies(simulated, metric)[kept]))
    return tuple(errors)


def _latencies(run: Run, metric: Metric) -> Floats:
    """ms by request; TPOT is 0 for a single output token."""
    if metric == "ttft":
        values = [r.ttft_s for r in run.requests]
    elif metric == "tpot":
        values = [r.tpot_s or 0.0 for r in run.requests]
    else:
        values = [r.e2e_s for r in run.requests]
    return np.array(values) * 1e3


def _request_error(metric: Metric, runs: Floats, simulated: Floats) -> RequestError:
    measured: Floats = runs.mean(axis=0)
    noise = None
    if len(runs) > 1:
        others = (runs.sum(axis=0) - runs) / (len(runs) - 1)
        noise = float(np.mean(np.abs(runs - others) / others) * 100)
    p50, p90, p99 = (float(np.quantile(simulated, q) / np.quantile(measured, q) - 1) * 100 for q in (0.5, 0.9, 0.99))
    return RequestError(
        metric=metric,
        measured_ms=float(np.median(measured)),
        simulated_ms=float(np.median(simulated)),
        mape_percent=float(np.mean(np.abs(simulated - measured) / measured) * 100),
        mean_error_percent=float(simulated.mean() / measured.mean() - 1) * 100,
        p50_error_percent=p50,
        p90_error_percent=p90,
        p99_error_percent=p99,
        noise_percent=noise,
    )
