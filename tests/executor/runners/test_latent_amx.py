"""Latent attention as the engine runs it on a processor with AMX: another backend, which takes 16 bits only."""

import pytest

from dooly.database import Point
from dooly.executor.runners import make_runner
from dooly.executor.session import Unsupported, open_session
from dooly.hardware.machine import machine
from tests.amx import taken_for_amx
from tests.executor.runners.latent_cases import BATCHES, CHUNKED, check, latent

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def session():
    with taken_for_amx(), open_session(machine()) as opened:
        yield opened


@pytest.mark.parametrize("batch", (BATCHES | CHUNKED).values(), ids=list(BATCHES | CHUNKED))
def test_latent_attention_of_any_batch_as_the_engine_runs_it_with_amx(session, batch, caches_of):
    check(session, latent("bf16", backend="AMX_MLA"), batch, caches_of)


def test_what_amx_does_not_do_says_so_and_the_other_backend_can_be_asked_for(session):
    with pytest.raises(Unsupported, match="refuses AMX_MLA here: expect weight to be bfloat16"):
        make_runner(latent("f32", backend="AMX_MLA"), session)
    assert make_runner(latent("f32"), session).trial(Point.of_requests([(5, 0)])).call().isfinite().all()
