"""The simulator's batches are the real engine's batches, step by step, down to the block ids.

The real CPU engine and the simulator serve the same requests, all submitted at once, and everything that the scheduler
decides is compared.
"""

import random
from pathlib import Path
from typing import Any

import pytest

from dooly.engine.local import start_engine
from dooly.engine.settings import EngineSettings
from dooly.simulate import Trace, TraceRequest, simulate, simulator
from dooly.simulate.vllm_scheduler import EngineScheduler

pytestmark = pytest.mark.engine

Decision = tuple[Any, ...]


def requests(count: int, seed: int = 7) -> Trace:
    rng = random.Random(seed)
    return Trace("random", tuple(TraceRequest(0.0, rng.randint(20, 300), rng.randint(1, 60)) for _ in range(count)))


def note_decisions(scheduler: Any) -> list[Decision]:
    """Wrap schedule(): each call appends what it decided."""
    decisions: list[Decision] = []
    original = scheduler.schedule

    def blocks(ids: Any) -> Any:
        return None if ids is None else tuple(tuple(group) for group in ids)

    def schedule(*args: Any, **kwargs: Any) -> Any:
        output = original(*args, **kwargs)
        running = output.scheduled_cached_reqs
        decisions.append(
            (
                tuple(output.num_scheduled_tokens.items()),
                tuple((r.req_id, r.num_computed_tokens, blocks(r.block_ids)) for r in output.scheduled_new_reqs),
                tuple(zip(running.req_ids, running.num_computed_tokens, map(blocks, running.new_block_ids))),
                tuple(sorted(running.resumed_req_ids)),
                tuple(sorted(output.finished_req_ids)),
                tuple(sorted(output.preempted_req_ids or ())),
            )
        )
        return output

    scheduler.schedule = schedule
    return decisions


def real_decisions(
    model: Path, prompts: list[list[int]], outputs: list[int], settings: EngineSettings
) -> list[Decision]:
    with start_engine(model, settings) as engine:
        decisions = note_decisions(engine.core.scheduler)
        for index, (prompt, tokens) in enumerate(zip(prompts, outputs, strict=True)):
            engine.add(str(index), prompt, tokens)
        while engine.busy():
            engine.step()
    return decisions


def assert_same(real: list[Decision], simulated: list[Decision]) -> None:
    """All equal; only empty steps after the last may be missing on one side."""
    both = min(len(real), len(simulated))
    for index in range(both):
        assert real[index] == simulated[index], f"step {index}"
    assert not any(decision[0] for decision in real[both:] + simulated[both:])


CASES = {
    "ample": ("llama", EngineSettings(max_num_seqs=8, max_num_batched_tokens=256, max_model_len=512)),
    "preempting": (
        "llama",
        EngineSettings(max_num_seqs=16, max_num_batched_tokens=256, max_model_len=512, num_blocks=40),
    ),
    "preempting, prefix cache": (
        "llama",
        EngineSettings(16, 256, 512, num_blocks=40, prefix_caching=True),
    ),
    "asynchronous": (
        "llama",
        EngineSettings(max_num_seqs=8, max_num_batched_tokens=256, max_model_len=512, async_scheduling=True),
    ),
    "asynchronous, preempting": (
        "llama",
        EngineSettings(16, 256, 512, num_blocks=40, async_scheduling=True),
    ),
    "mixture of experts": ("mixtral", EngineSettings(8, 128, 512, num_blocks=30)),
    "sliding window": ("gemma", EngineSettings(8, 128, 512, num_blocks=40)),
}


@pytest.mark.parametrize("case", CASES)
def test_same_decisions_as_the_real_engine(case: str, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    name, settings = CASES[case]
    trace = requests(24)
    simulated: list[Decision] = []

    def watched(*args: Any) -> EngineScheduler:
        scheduler = EngineScheduler(*args)
        nonlocal simulated
        simulated = note_decisions(scheduler.scheduler)
        return scheduler

    monkeypatch.setattr(simulator, "EngineScheduler", watched)
    run = simulate(models[name], trace, lambda batch: 1e-3, settings)
    prompts = [[index + 1] + [0] * (r.prompt_tokens - 1) for index, r in enumerate(trace.requests)]
    real = real_decisions(models[name], prompts, [r.output_tokens for r in trace.requests], settings)
    assert_same(real, simulated)
    assert len(run.steps) > 50
    assert (sum(r.preemptions for r in run.requests) > 0) == (settings.num_blocks is not None)


def test_same_prefix_cache_hits_as_the_real_engine(models: dict[str, Path]) -> None:
    settings = EngineSettings(8, 256, 512, num_blocks=60, prefix_caching=True)
    rng = random.Random(3)
    shared = [rng.randrange(128) for _ in range(96)]
    prompts = [shared + [rng.randrange(128) for _ in range(rng.randint(1, 90))] for _ in range(20)]
    outputs = [rng.randint(1, 40) for _ in prompts]
    mine = EngineScheduler(models["llama"], settings)
    simulated = note_decisions(mine.scheduler)
    for index, (prompt, tokens) in enumerate(zip(prompts, outputs, strict=True)):
        mine.add(str(index), prompt, tokens, 0.0)
    cached = 0
    while mine.busy():
        cached += sum(event.cached_tokens for event in mine.update(mine.schedule()))
    assert cached >= 96
    assert_same(real_decisions(models["llama"], prompts, outputs, settings), simulated)
