"""The compact scheduler without the engine: block bookkeeping, sums of batches, refusals, steps that are skipped."""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dooly.batch import Batch, StepBatch, StepCost
from dooly.engine.settings import EngineSettings
from dooly.fit import Observation, fit_host
from dooly.host import POWER_LIMIT
from dooly.predict import NO_LIMIT, PowerLimit
from dooly.simulate import Trace, TraceRequest, simulate_fast
from dooly.simulate.block_pool import BlockPool
from dooly.simulate.compact_scheduler import CompactScheduler
from tests.simulate.workloads import decisions, random_requests, random_settings

HELD = [Observation((("U", u),), None, u + 0.2 * max(0, u - 30_000)) for u in range(10_000, 200_000, 5_000)]
LIMIT = PowerLimit(fit_host(POWER_LIMIT, HELD))


def test_blocks_that_hold_nothing_are_used_first_then_the_oldest() -> None:
    pool = BlockPool(7)
    pool.take(4)
    first, second = pool.cache(1), pool.cache(2)
    pool.give(second)
    pool.give(first)
    pool.give_empty(1)
    assert pool.free == 5
    pool.take(3)
    assert pool.find(1) is first
    assert pool.find(2) is second
    pool.take(1)
    assert pool.find(2) is None
    pool.touch(first)
    assert pool.free == 0
    assert pool.find(1) is first


def test_a_row_of_blocks_is_used_up_before_what_came_after_it() -> None:
    pool = BlockPool(5)
    pool.take(4)
    pool.give_row(3)
    pool.give(pool.cache(9))
    pool.take(2)
    assert pool.find(9) is not None
    pool.take(2)
    assert pool.find(9) is None


def test_of_two_blocks_under_one_key_the_older_is_found() -> None:
    pool = BlockPool(4)
    pool.take(2)
    older, newer = pool.cache(5), pool.cache(5)
    assert pool.find(5) is older
    pool.give(older)
    pool.take(2)
    assert pool.find(5) is newer


@given(st.integers(0, 10_000))
def test_all_blocks_come_back_and_every_batch_is_in_bounds(seed: int) -> None:
    rng = random.Random(seed)
    settings = random_settings(rng)
    scheduler = CompactScheduler(settings)
    noted, _, _ = decisions(scheduler, random_requests(rng, settings.max_model_len))
    assert scheduler._pool.free == settings.blocks - 1
    for batch in (entry[0] for entry in noted if isinstance(entry[0], tuple)):
        assert sum(new for new, _ in batch) <= settings.max_num_batched_tokens
        assert len(batch) <= settings.max_num_seqs
        held = sum(-(-(new + cached) // settings.block_size) for new, cached in batch)
        assert settings.prefix_caching or held < settings.blocks


def test_sums_are_those_of_the_listed_requests() -> None:
    seen = 0

    def check(batch: StepBatch) -> float:
        nonlocal seen
        seen += 1
        listed = Batch(batch.requests, batch.logits)
        assert (batch.tokens, batch.count) == (listed.tokens, listed.count)
        assert batch.attention(None) == listed.attention(None)
        assert batch.attention(100) == listed.attention(100)
        return 1e-3

    for seed in range(6):
        rng = random.Random(seed)
        settings = random_settings(rng)
        arrivals = random_requests(rng, settings.max_model_len)
        simulate_fast("m", Trace("t", tuple(request for _, request in arrivals)), check, settings)
    assert seen > 200


def bent(batch: StepBatch) -> StepCost:
    """Milliseconds, bent over the context; prompts are heavy work of a GPU under a power limit."""
    sums = batch.attention(None)
    device_us = 400.0 + 9 * batch.tokens + 40 * sums["S"] ** 0.7 + sums["Sd"] ** 0.5
    heavy_us = 9.0 * device_us if batch.tokens > batch.count else 0.0
    return StepCost(150.0, device_us, 70.0, 220.0 + device_us, False, 90.0, 40.0, 20.0, 10.0, heavy_us)


@given(st.integers(0, 10_000), st.booleans(), st.booleans())
def test_steps_are_counted_without_being_kept_and_the_run_is_the_same(
    seed: int, overlapped: bool, limited: bool
) -> None:
    """Steps in which the same requests decode are skipped only where the run does not list them."""
    rng = random.Random(seed)
    settings = replace(random_settings(rng), async_scheduling=overlapped)
    requests = [request for _, request in random_requests(rng, settings.max_model_len)]
    span_s = rng.choice([0.0, 0.1, 1.0, 10.0])
    arrivals = sorted(rng.uniform(0.0, span_s) for _ in requests)
    trace = Trace("t", tuple(replace(each, arrival_s=at) for each, at in zip(requests, arrivals, strict=True)))
    power = LIMIT if limited else NO_LIMIT
    short, full = (simulate_fast("m", trace, bent, settings, power=power, keep_steps=keep) for keep in (False, True))
    assert short.requests == full.requests
    assert short.steps == ()
    assert (short.step_count, short.mean_running) == (full.step_count, full.mean_running)
    assert full.step_count == len(full.steps)


@pytest.mark.parametrize(
    ("size", "tokens", "shared"), [(48, 512, 1056), (64, 16, 1088), (24, 16, 1080), (16, 512, 1088)]
)
def test_blocks_that_cut_across_prefix_ids_are_shared(size: int, tokens: int, shared: int) -> None:
    settings = EngineSettings(block_size=size, prefix_caching=True)
    ids = tuple(range(-(-1100 // tokens)))
    arrivals = [(0, TraceRequest(0, 1100, 1, ids, tokens)), (9, TraceRequest(0, 1200, 1, ids, tokens))]
    noted, _, hits = decisions(CompactScheduler(settings), arrivals)
    assert hits == 1
    assert [each[3] for each in noted if each[0] == "1"] == [shared]
