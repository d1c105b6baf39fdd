"""The real engine serving a trace in real time on this machine, with a stopwatch on each part of each step.

The records have the types of a simulated run.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dooly.engine.local import Engine, start_engine
from dooly.engine.probe import Probe, SeenStep
from dooly.engine.remote import RemoteEngine
from dooly.engine.settings import EngineSettings, model_folder
from dooly.errors import SimulationError
from dooly.evaluate.metadata import machine_facts
from dooly.simulate.records import RequestRecord, Run, StepRecord
from dooly.simulate.simulator import Progress, check_lengths
from dooly.simulate.trace import Trace

__all__ = ["record_runs", "record_trace", "warm_up"]

WARM_UP_REQUESTS = 32
WARM_UP_TOKENS = 32
WARM_UP_GAP_S = 0.1
SPIN_S = 1e-3


def record_runs(
    model: str | Path,
    trace: Trace,
    settings: EngineSettings | None = None,
    *,
    repeats: int = 1,
    seed: int = 0,
    backend: str | None = None,
    progress: Progress | None = None,
) -> list[Run]:
    """Serve `trace` `repeats` times with vLLM's engine, after a warm-up, and record each pass.

    Requests are submitted when their arrival is due, so a pass takes at least the duration of the trace.  Prompts are
    random token ids, different for every request; weights are random.

    Args:
        model: folder with config.json, or that file.
        trace: every request must fit into settings.max_model_len.
        settings: of the engine; None for the defaults.
        repeats: passes, 1 or more; more than one shows how far two equal runs differ.
        seed: of the token ids; each pass draws others.
        backend: attention backend by the engine's name; its own choice by default.
        progress: called with (requests finished, requests) over all passes.

    Raises:
        SimulationError: a request is too long, or the engine refuses model or settings.
    """
    settings = EngineSettings() if settings is None else settings
    if repeats < 1:
        raise SimulationError(f"{repeats} repeats; expected at least 1")
    check_lengths(trace, settings)
    rng = np.random.default_rng(seed)
    runs: list[Run] = []
    with start_engine(model, settings, backend=backend) as engine:
        warm_up(engine, trace, rng)
        for repeat in range(repeats):

            def report(done: int, total: int, before: int = repeat * len(trace)) -> None:
                if progress is not None:
                    progress(before + done, repeats * total)

            runs.append(record_trace(engine, model_folder(model).name, trace, settings, rng, report))
    return runs


def warm_up(engine: Engine | RemoteEngine, trace: Trace, rng: np.random.Generator) -> None:
    """Serve a few requests with short outputs, each beside those before it.

    The first steps of an engine are up to 30 times slower, the first dozen prompts beside decodes twice as slow.
    """
    first = (
        replace(request, arrival_s=place * WARM_UP_GAP_S, output_tokens=min(request.output_tokens, WARM_UP_TOKENS))
        for place, request in enumerate(trace.requests[:WARM_UP_REQUESTS])
    )
    _Recorder(engine, replace(trace, requests=tuple(first)), rng).run()


def record_trace(
    engine: Engine | RemoteEngine,
    model: str,
    trace: Trace,
    settings: EngineSettings,
    rng: np.random.Generator,
    progress: Progress | None = None,
) -> Run:
    """One pass over a trace with an engine that runs; see `record_runs`.  Steps in another process are not listed.

    Args:
        engine: idle.
        model: its name.
        settings: what the engine was started with; asynchronous or not is told by the engine itself.
        rng: draws the prompts.
    """
    start = time.perf_counter()
    recorder = _Recorder(engine, trace, rng, progress)
    steps = recorder.run()
    return Run(
        source="measured",
        model=model,
        trace=trace.name,
        settings=replace(settings, async_scheduling=engine.overlaps),
        clipped=trace.clipped,
        requests=recorder.records(),
        steps=tuple(_step_record(step, recorder.origin, engine.overlaps) for step in steps),
        wall_s=time.perf_counter() - start,
        facts=machine_facts(engine),
    )


class _Recorder:
    """One pass over a trace in real time."""

    def __init__(
        self,
        engine: Engine | RemoteEngine,
        trace: Trace,
        rng: np.random.Generator,
        progress: Progress | None = None,
    ) -> None:
        self.engine, self.trace, self.progress = engine, trace, progress
        self.prompts = [rng.integers(0, engine.vocab_size, each.prompt_tokens).tolist() for each in trace.requests]
        count = len(trace)
        self.first_token_s: list[float | None] = [None] * count
        self.finish_s = [0.0] * count
        self.tokens = [0] * count
        self.cached = [0] * count
        self.done = 0
        self.origin = 0.0
        self.preemptions: Counter[str] = Counter()

    def run(self) -> list[SeenStep]:
        """Serve the trace; the steps, if they can be seen."""
        if isinstance(self.engine, RemoteEngine):
            self._serve()
            return []
        with Probe(self.engine) as probe:
            self._serve()
        self.preemptions.update(name for step in probe.steps for name in step.preempted)
        return probe.steps

    def _serve(self) -> None:
        waiting = deque(enumerate(self.trace.requests))
        self.origin = time.perf_counter()
        while waiting or self.engine.busy():
            now_s = time.perf_counter() - self.origin
            while waiting and waiting[0][1].arrival_s <= now_s:
                index, request = waiting.popleft()
                self.engine.add(str(index), self.prompts[index], request.output_tokens)
            if self.engine.busy():
                self._take(self.engine.step())
            else:
                _wait_until(self.origin + waiting[0][1].arrival_s)

    def _take(self, outputs: list[Any]) -> None:
        end_s = time.perf_counter() - self.origin
        for item in outputs:
            index = int(item.request_id)
            self.tokens[index] += len(item.new_token_ids)
            if item.new_token_ids and self.first_token_s[index] is None:
                self.first_token_s[index] = end_s
                self.cached[index] = 0 if item.prefill_stats is None else item.prefill_stats.num_cached_tokens
            if item.finish_reason is not None:
                self.finish_s[index] = end_s
                self.done += 1
                if self.progress is not None:
                    self.progress(self.done, len(self.trace))

    def records(self) -> tuple[RequestRecord, ...]:
        """Return one record of each request, in order of the trace."""
        records: list[RequestRecord] = []
        for index, request in enumerate(self.trace.requests):
            first_token_s = self.first_token_s[index]
            if first_token_s is None or self.tokens[index] != request.output_tokens:
                raise SimulationError(
                    f"request {index + 1} ended with {self.tokens[index]} of {request.output_tokens} tokens"
                )
            records.append(
                RequestRecord(
                    arrival_s=request.arrival_s,
                    first_token_s=first_token_s,
                    finish_s=self.finish_s[index],
                    prompt_tokens=request.prompt_tokens,
                    output_tokens=request.output_tokens,
                    cached_tokens=self.cached[index],
                    preemptions=self.preemptions[str(index)],
                )
            )
        return tuple(records)


def _wait_until(due: float) -> None:
    """Sleep, then spin through the last millisecond: sleeping alone wakes up too late by as much as a short step."""
    remaining = due - time.perf_counter()
    if remaining > SPIN_S:
        time.sleep(remaining - SPIN_S)
    while time.perf_counter() < due:
        pass


def _step_record(step: SeenStep, origin_s: float, overlaps: bool) -> StepRecord:
    """In microseconds since the start of the run; asks the GPU's events, so it must wait until the pass is over.

    Where the next step is composed meanwhile, only the update counts as work after the step.
    """
    before_us, launch_us, device_us, total_us = step.before_us, step.launch_us, step.device_us, step.total_us
    update_us = 1e6 * (step.end_s - step.ready_s)
    detail = {
        "schedule_us": 1e6 * (step.scheduled_s - step.start_s),
        "prepare_us": 1e6 * (step.called_s - step.scheduled_s),
        **{f"{name}_us": 1e6 * seconds for name, seconds in step.parts_s.items()},
        "results_us": 1e6 * (step.ready_s - step.issued_s),
        "update_us": update_us,
    }
    on_gpu = launch_us > 0.0
    return StepRecord(
        start_s=step.start_s - origin_s,
        batch=step.batch,
        host_before_us=before_us,
        device_us=device_us,
        host_after_us=update_us if overlaps else total_us - before_us - max(launch_us, device_us),
        total_us=total_us,
        launch_us=launch_us,
        mode=step.mode if on_gpu else "",
        padded=step.padded if on_gpu else 0,
        detail=tuple(detail.items()),
    )
