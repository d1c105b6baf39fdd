"""Arrivals in mid-flight: our loop against EngineCore's own step functions, whose executor alone is replaced.

Both run on a simulated clock with the same scheduler class; every latency must be the same.
"""

import queue
import random
from collections import deque
from pathlib import Path
from typing import Any

import pytest

from dooly.batch import Batch, StepCost
from dooly.engine.settings import EngineSettings, engine_config
from dooly.simulate import Trace, TraceRequest, simulate
from dooly.simulate.vllm_scheduler import EngineScheduler, Scheduled

pytestmark = pytest.mark.engine


def cost(batch: Batch) -> StepCost:
    device_us = 900.0 + 9.0 * batch.tokens
    return StepCost(150.0, device_us, 70.0, 150.0 + device_us + 70.0)


class Clock:
    now_s = 0.0
    device_free_s = 0.0


class Later:
    """A result that is there at a certain time; asking for it waits until then."""

    def __init__(self, clock: Clock, ready_s: float, value: Any) -> None:
        self.clock, self.ready_s, self.value = clock, ready_s, value

    def result(self) -> Any:
        self.clock.now_s = max(self.clock.now_s, self.ready_s)
        return self.value

    def done(self) -> bool:
        return self.ready_s <= self.clock.now_s


class Executor:
    """Stands in for the workers: a batch takes its predicted time on the device."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.step: Scheduled | None = None

    def execute_model(self, output: Any, non_block: bool) -> Later:
        assert non_block
        assert self.step is not None
        assert self.step.scheduler_output is output
        if self.step.batch is not None:
            step_cost = cost(self.step.batch)
            self.clock.now_s += step_cost.host_before_us / 1e6
            self.clock.device_free_s = max(self.clock.now_s, self.clock.device_free_s) + step_cost.device_us / 1e6
            self.last = Later(self.clock, self.clock.device_free_s, self.step.runner_output)
        else:
            self.last = Later(self.clock, self.clock.now_s, self.step.runner_output)
        return self.last

    def sample_tokens(self, grammar: Any, non_block: bool) -> Later:
        return self.last


class WatchedScheduler:
    """vLLM's scheduler, whose schedule() goes through ours, so the executor knows the batch; updating takes time."""

    def __init__(self, ours: EngineScheduler, executor: Executor) -> None:
        self.ours, self.executor = ours, executor

    def schedule(self, throttle: bool) -> Any:
        self.executor.step = self.ours.schedule()
        return self.executor.step.scheduler_output

    def update_from_output(self, output: Any, results: Any) -> Any:
        self.executor.clock.now_s += 70e-6 if output.num_scheduled_tokens else 0.0
        return self.ours.scheduler.update_from_output(output, results)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.ours.scheduler, name)


def engine_core(model: Path, settings: EngineSettings, clock: Clock) -> Any:
    """An EngineCore with a scheduler and our executor, and nothing else."""
    ours = EngineScheduler(model, settings)
    from vllm.v1.engine.core import EngineCore

    config = engine_config(model, settings)
    core: Any = EngineCore.__new__(EngineCore)
    core.model_executor = Executor(clock)
    core.scheduler = WatchedScheduler(ours, core.model_executor)
    core.vllm_config, core.log_stats, core.aborts_queue = config, False, queue.Queue()
    core.is_mm_encoder_only = core.is_pooling_model = core.check_for_draft_tokens = core.use_spec_decode = False
    core.batch_queue_size = config.max_concurrent_batches
    core.batch_queue = deque(maxlen=core.batch_queue_size) if core.batch_queue_size > 1 else None
    core.async_scheduling, core._weight_version = settings.async_scheduling, "default"
    core.step_fn = core.step if core.batch_queue is None else core.step_with_batch_queue
    return core


def engine_latencies(model: Path, trace: Trace, settings: EngineSettings) -> list[tuple[float, float]]:
    """(first token, finish) of each request, s."""
    clock = Clock()
    core = engine_core(model, settings, clock)
    first: dict[str, float] = {}
    finish: dict[str, float] = {}
    waiting = deque(enumerate(trace.requests))
    while True:
        while waiting and waiting[0][1].arrival_s <= clock.now_s:
            index, request = waiting.popleft()
            prompt = [index + 1] + [0] * (request.prompt_tokens - 1)
            core.scheduler.ours.add(str(index), prompt, request.output_tokens, request.arrival_s)
        if not core.scheduler.has_requests() and not core.batch_queue:
            if not waiting:
                break
            clock.now_s = max(clock.now_s, waiting[0][1].arrival_s)
            continue
        outputs, _ = core.step_fn()
        items = [item for group in (outputs or {}).values() for item in group.outputs]
        for item in items:
            if item.new_token_ids:
                first.setdefault(item.request_id, clock.now_s)
            if item.finish_reason is not None:
                finish[item.request_id] = clock.now_s
    return [(first[str(index)], finish[str(index)]) for index in range(len(trace))]


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("num_blocks", [None, 40])
def test_every_latency_is_that_of_the_engine(
    models: dict[str, Path], asynchronous: bool, num_blocks: int | None
) -> None:
    rng = random.Random(11)
    arrival = 0.0
    rows: list[TraceRequest] = []
    for _ in range(80):
        rows.append(TraceRequest(arrival, rng.randint(1, 300), rng.randint(1, 60)))
        arrival += rng.expovariate(60)
    trace = Trace("random", tuple(rows))
    settings = EngineSettings(16, 256, 512, num_blocks=num_blocks, async_scheduling=asynchronous)
    run = simulate(models["llama"], trace, cost, settings)
    expected = engine_latencies(models["llama"], trace, settings)
    assert [(r.first_token_s, r.finish_s) for r in run.requests] == [
        (pytest.approx(first, abs=1e-9), pytest.approx(finish, abs=1e-9)) for first, finish in expected
    ]
    assert (sum(r.preemptions for r in run.requests) > 0) == (num_blocks is not None)
