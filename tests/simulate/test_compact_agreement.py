"""The compact scheduler composes the batches of vLLM's scheduler, step by step, over random workloads."""

import random
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from dooly.batch import StepBatch, StepCost
from dooly.engine.settings import EngineSettings
from dooly.simulate import Trace, TraceRequest, simulate, simulate_fast, summarize
from dooly.simulate.compact_scheduler import CompactScheduler
from dooly.simulate.vllm_scheduler import EngineScheduler
from tests.simulate.workloads import decisions, random_requests, random_settings

pytestmark = pytest.mark.engine


def compare(model: Path, seeds: Sequence[int], workloads: int) -> tuple[int, int, int]:
    """(steps and tokens compared, preemptions, prefix hits) of `workloads` workloads for each of the settings."""
    compared = preemptions = hits = 0
    for seed in seeds:
        settings = random_settings(random.Random(seed))
        engine = EngineScheduler(model, settings)
        for workload in range(workloads):
            arrivals = random_requests(random.Random(f"{seed}/{workload}"), settings.max_model_len)
            engine.reset()
            expected, lost, found = decisions(engine, arrivals)
            actual, _, _ = decisions(CompactScheduler(settings), arrivals)
            at = next((i for i, pair in enumerate(zip(expected, actual)) if pair[0] != pair[1]), None)
            assert at is None, f"seed {seed}/{workload}, {settings}: {expected[at]} but {actual[at]} at {at}"
            assert len(expected) == len(actual)
            compared, preemptions, hits = compared + len(expected), preemptions + lost, hits + found
    return compared, preemptions, hits


def test_a_few_random_workloads(models: dict[str, Path]) -> None:
    compared, preemptions, hits = compare(models["llama"], (1, 13, 14), 15)
    assert compared > 10_000
    assert preemptions > 20
    assert hits > 20


@pytest.mark.exhaustive
def test_a_thousand_random_workloads(models: dict[str, Path]) -> None:
    compared, preemptions, hits = compare(models["llama"], range(100, 140), 25)
    print(f"{compared:,d} decisions equal, {preemptions:,d} preemptions, {hits:,d} prefix hits")
    assert preemptions > 1000
    assert hits > 1000


def test_the_same_latencies_on_the_simulated_clock(models: dict[str, Path]) -> None:
    """Batches are the same; times of steps that only decode are interpolated, hence the tolerance."""
    rng = random.Random(2)
    rows = [TraceRequest(i / 30, rng.randint(1, 400), rng.randint(1, 100), rng.choice([(), (7,)])) for i in range(60)]
    for overlapped in (False, True):
        settings = EngineSettings(8, 128, 512, 16, 70, prefix_caching=True, async_scheduling=overlapped)
        expected = simulate(models["llama"], Trace("random", tuple(rows)), cost, settings)
        actual = simulate_fast("llama", Trace("random", tuple(rows)), cost, settings, keep_steps=True)
        assert [step.batch for step in actual.steps] == [step.batch for step in expected.steps]
        assert [r.cached_tokens for r in actual.requests] == [r.cached_tokens for r in expected.requests]
        for ours, theirs in zip(actual.requests, expected.requests):
            assert ours.preemptions == theirs.preemptions
            assert ours.first_token_s == pytest.approx(theirs.first_token_s, rel=1e-4)
            assert ours.finish_s == pytest.approx(theirs.finish_s, rel=1e-4)
        assert summarize(actual).preemptions > 0
        assert max(r.cached_tokens for r in actual.requests) > 0


@pytest.mark.parametrize("overlapped", [False, True])
def test_a_closed_loop_is_the_same_in_both(models: dict[str, Path], *, overlapped: bool) -> None:
    """Requests that wait for a client's seat, at once and at a rate, with preemption: batches and all token times."""
    rng = random.Random(5)
    settings = EngineSettings(8, 128, 512, 16, 60, prefix_caching=True, async_scheduling=overlapped)
    preemptions = 0
    for concurrency, gap_s in ((1, 0.0), (5, 0.0), (7, 0.03), (20, 0.01)):
        lengths = [(rng.randint(1, 300), rng.randint(1, 100), rng.choice([(), (7,)])) for _ in range(40)]
        trace = Trace("random", tuple(TraceRequest(i * gap_s, *each) for i, each in enumerate(lengths)))
        expected = simulate(models["llama"], trace, flat, settings, concurrency=concurrency)
        actual = simulate_fast("llama", trace, flat, settings, concurrency=concurrency, keep_steps=True)
        assert [step.batch for step in actual.steps] == [step.batch for step in expected.steps]
        assert actual.requests == expected.requests
        assert actual.tokens is not None
        assert actual.tokens == expected.tokens
        preemptions += sum(request.preemptions for request in actual.requests)
        for index, request in enumerate(actual.requests):
            times = actual.tokens.of(index, request.output_tokens)
            assert len(times) == request.output_tokens
            assert (times[0], times[-1]) == (request.first_token_s, request.finish_s)
            assert all(earlier < later for earlier, later in pairwise(times))
    assert preemptions > 5


def flat(batch: StepBatch) -> StepCost:
    """By tokens only, so that nothing is interpolated."""
    device_us = 1000.0 + 8 * batch.tokens
    return StepCost(256.0, device_us, 64.0, 320.0 + device_us)


def cost(batch: StepBatch) -> StepCost:
    """Milliseconds, bent over the context."""
    sums = batch.attention(None)
    device_us = (
        900
        + 9 * batch.tokens
        + 40 * sums["S"] ** 0.7
        + 0.02 * sums["P"]
        + (sums["Sd"] + 2 * sums["Sx"] + sums["Sq"] + sums["Pt"] + 7 * sums["M"]) ** 0.5
    )
    return StepCost(150.0, device_us, 70.0 + batch.count, 220.0 + batch.count + device_us)
