"""Record the real engine step by step: what belongs to the model, and what the host did around it."""

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dooly.engine import CpuEngine, EngineSettings, start_cpu_engine

__all__ = ["Step", "Workload", "record"]

Workload = tuple[tuple[int, int], ...]
"""(prompt tokens, output tokens) of requests that are submitted together."""


@dataclass
class Step:
    """One engine step.

    Fields:
        requests, tokens: what was scheduled.
        before_us: from the start of the step until the model is called.
        model_us: forward pass, logits and greedy choice, all of which are operations.
        wall_us: the whole step.
    """

    requests: int = 0
    tokens: int = 0
    before_us: float = 0.0
    model_us: float = 0.0
    wall_us: float = 0.0


@dataclass
class _Recorder:
    """Steps so far, and when the present one began."""

    steps: list[Step] = field(default_factory=list)
    started_ns: int = 0

    def current(self) -> Step:
        return self.steps[-1]


def record(
    folder: Path, settings: EngineSettings, warm_up: Iterable[Workload], groups: Iterable[Sequence[Workload]]
) -> Iterator[list[Step]]:
    """Serve the workloads with the real engine, one after the other; after each group of them, all its steps.

    Raises:
        SimulationError: the engine does not start.
    """
    with start_cpu_engine(folder, settings) as engine:
        _serve(engine, warm_up, "warm-up")
        for number, group in enumerate(groups):
            with _recording(engine) as recorder:
                _serve(engine, group, f"timed-{number}", recorder)
            yield recorder.steps


def _serve(engine: CpuEngine, batches: Iterable[Workload], label: str, recorder: _Recorder | None = None) -> None:
    for number, batch in enumerate(batches):
        for index, (prompt, output) in enumerate(batch):
            ids = [(7 * number + 3 * index + place) % engine.vocab_size for place in range(prompt)]
            engine.add(f"{label}-{number}-{index}", ids, output)
        while engine.busy():
            start = time.perf_counter_ns()
            if recorder is not None:
                recorder.started_ns = start
                recorder.steps.append(Step())
            engine.step()
            if recorder is not None:
                recorder.current().wall_us = (time.perf_counter_ns() - start) / 1e3


@contextmanager
def _recording(engine: CpuEngine) -> Generator[_Recorder]:
    """Wrap what belongs to the model, for as long as the block lasts."""
    from vllm.v1.sample.sampler import Sampler

    recorder = _Recorder()
    runner = engine.runner
    forward, logits, greedy = runner._model_forward, runner.model.compute_logits, Sampler.greedy_sample
    schedule = engine.core.scheduler.schedule

    def scheduled(*args: Any) -> Any:
        output = schedule(*args)
        step = recorder.current()
        step.requests, step.tokens = len(output.num_scheduled_tokens), output.total_num_scheduled_tokens
        return output

    def timed(function: Callable[..., Any], *, first: bool) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter_ns()
            result = function(*args, **kwargs)
            step = recorder.current()
            step.model_us += (time.perf_counter_ns() - start) / 1e3
            if first:
                step.before_us = (start - recorder.started_ns) / 1e3
            return result

        return call

    engine.core.scheduler.schedule = scheduled
    runner._model_forward = timed(forward, first=True)
    runner.model.compute_logits = timed(logits, first=False)
    Sampler.greedy_sample = staticmethod(timed(greedy, first=False))
    try:
        yield recorder
    finally:
        engine.core.scheduler.schedule = schedule
        runner._model_forward, runner.model.compute_logits = forward, logits
        Sampler.greedy_sample = staticmethod(greedy)
