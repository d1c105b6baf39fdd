"""Latent attention through the engine's backends: results against keys and values expanded in plain torch."""

from dataclasses import replace

import pytest

from dooly.database import Point
from dooly.executor.runners import make_runner
from dooly.executor.session import Unsupported, open_session
from dooly.hardware.environment import environment_for
from dooly.hardware.machine import machine
from tests.executor.runners.latent_cases import BATCHES, check, latent


@pytest.fixture(scope="module")
def session():
    with open_session(machine()) as opened:
        yield opened


@pytest.mark.engine
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("batch", BATCHES.values(), ids=list(BATCHES))
def test_latent_attention_of_any_batch(session, dtype: str, batch, caches_of):
    check(session, latent(dtype), batch, caches_of)


@pytest.mark.engine
def test_layers_with_weights_of_their_own_take_turns(session):
    trial = make_runner(latent("f32"), session).trial(Point.of_requests([(5, 0)]))
    assert trial.turns > 2
    assert not trial.call().equal(trial.call())


@pytest.mark.engine
def test_what_the_cpu_backend_does_not_do_says_so(session):
    with pytest.raises(NotImplementedError, match="reads no prompt in chunks"):
        make_runner(latent("f32"), session).trial(Point.of_requests([(4, 8)]))
    with pytest.raises(Unsupported, match=r"selects \w+_MLA and CPU_SDPA_MLA here, .*FLASH_ATTN_MLA"):
        make_runner(latent("f32", backend="FLASH_ATTN_MLA"), session)
    with pytest.raises(Unsupported, match="attention to a cache of f8e4m3"):
        make_runner(latent("f32", kv_dtype="f8e4m3"), session)


def test_blocks_are_as_large_as_the_backend_has_them(somewhere):
    assert environment_for(latent("bf16"), somewhere).get("block_size") == 16
    gpu = replace(somewhere, platform="h200", block_size=32)
    assert environment_for(latent("bf16", backend="FLASH_ATTN_MLA"), gpu).get("block_size") == 32
    assert environment_for(latent("bf16", backend="FLASHMLA"), gpu).get("block_size") == 64
