"""Steps with prompts take as long as the GPU's power limit makes their work; others as long as their work."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dooly.batch import POWER_LIMIT
from dooly.executor.power import WORK_US
from dooly.fit import Observation, fit_host
from dooly.predict.power import PowerLimit

FRESH_US, FACTOR = 30_000.0, 1.16


def taken(work_us: float) -> float:
    return work_us + (FACTOR - 1.0) * max(0.0, work_us - FRESH_US)


LIMIT = PowerLimit(fit_host(POWER_LIMIT, [Observation((("U", u),), None, taken(u)) for u in WORK_US]))


@given(st.integers(1, 1_200_000))
def test_prompts_are_held_down_as_was_measured(work_us: int):
    found_us, beyond = LIMIT.one(work_us, 2048, 4)
    assert found_us == pytest.approx(taken(work_us), rel=0.015)
    assert found_us >= work_us
    assert not beyond
    assert LIMIT.one(work_us, 4, 4) == (work_us, False)
    assert PowerLimit().one(work_us, 2048, 4) == (work_us, False)


@given(st.lists(st.tuples(st.integers(1, 3_000_000), st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=20))
def test_many_are_as_one_by_one(steps: list[tuple[int, int, int]]):
    work, tokens, requests = (np.array(column) for column in zip(*steps, strict=True))
    found, beyond = LIMIT.many(work.astype(np.float64), tokens, requests)
    singly = [LIMIT.one(*step) for step in steps]
    assert list(found) == pytest.approx([us for us, _ in singly], rel=1e-9)
    assert list(beyond) == [outside for _, outside in singly]


def test_longer_work_never_takes_less_and_beyond_the_longest_is_said():
    work = np.geomspace(1e3, 1e7, 2000)
    prompts = np.full(len(work), 100)
    found, beyond = LIMIT.many(work, prompts, prompts - 1)
    assert np.all(np.diff(found) > 0)
    assert list(beyond) == list(work > WORK_US[-1])
