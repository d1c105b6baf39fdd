"""The compact scheduler without the engine: block bookkeeping, sums of batches, refusals, determinism."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dooly.batch import Batch, StepBatch
from dooly.engine import EngineSettings
from dooly.errors import SimulationError
from dooly.simulate import Trace, TraceRequest, simulate_fast, summarize
from dooly.simulate.compact import CompactScheduler
from dooly.simulate.pool import BlockPool
from tests.simulate.workloads import decisions, random_requests, random_settings


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


def test_equal_inputs_equal_runs_and_steps_are_counted_without_being_kept() -> None:
    trace = Trace("t", tuple(TraceRequest(i / 10, 50 + i, 20) for i in range(50)))
    runs = [simulate_fast("m", trace, lambda batch: 1e-3 * batch.count, keep_steps=keep) for keep in (False, True)]
    assert runs[0].requests == runs[1].requests
    assert runs[0].steps == ()
    short, full = (summarize(run) for run in runs)
    assert (short.steps, short.mean_running) == (full.steps, full.mean_running)
    assert short.steps == len(runs[1].steps)


def test_a_block_size_that_cuts_across_prefix_blocks() -> None:
    settings = EngineSettings(block_size=48, prefix_caching=True)
    with pytest.raises(SimulationError, match="block size 48 does not divide 512"):
        simulate_fast("m", Trace("t", (TraceRequest(0, 5, 5),)), lambda batch: 1.0, settings)
