"""What a power limit makes of work: of one step from a rest on, and of steps that follow each other."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dooly.batch import StepCost
from dooly.fit import Observation, fit_host
from dooly.host import POWER_LIMIT
from dooly.predict import NO_LIMIT, PowerLimit, PowerState
from dooly.predict.sizes import columns_of

WORK_US = [round(10_000 * 2 ** (place / 4)) for place in range(29)]


def taken(work_us: float) -> float:
    """As an H200 does: 1.08 of the time at full clocks after 28 ms, 1.16 after 80 ms."""
    return work_us + 0.08 * max(0.0, work_us - 28_000.0) + 0.08 * max(0.0, work_us - 80_000.0)


LIMIT = PowerLimit(fit_host(POWER_LIMIT, [Observation((("U", u),), None, taken(u)) for u in WORK_US]))


@given(st.integers(1, 1_200_000))
def test_work_takes_as_long_as_was_measured(work_us: int):
    found_us, beyond = LIMIT.us(work_us)
    assert found_us == pytest.approx(taken(work_us), rel=0.015)
    assert found_us >= work_us
    assert not beyond
    assert NO_LIMIT.us(work_us) == (work_us, False)


@given(st.lists(st.integers(1, 3_000_000), min_size=1, max_size=20))
def test_many_are_as_one_by_one(work: list[int]):
    found, beyond = LIMIT.us(np.array(work, dtype=np.float64), columns_of(len(work)))
    singly = [LIMIT.us(each) for each in work]
    assert list(found) == pytest.approx([us for us, _ in singly], rel=1e-9)
    assert list(beyond) == [outside for _, outside in singly]


def test_longer_work_never_takes_less_and_beyond_the_longest_is_said():
    work = np.geomspace(1e3, 1e7, 2000)
    found, beyond = LIMIT.us(work, columns_of(len(work)))
    assert np.all(np.diff(found) > 0)
    assert np.all(np.diff(found / work) > -1e-9)
    assert list(beyond) == list(work > WORK_US[-1])


def prompts(work_us: float) -> StepCost:
    return StepCost(0.0, LIMIT.us(work_us)[0], 0.0, work_us, work_us=work_us)


def decode(device_us: float) -> StepCost:
    return StepCost(0.0, device_us, 0.0, device_us)


def in_cycles(*steps: tuple[StepCost | None, float], times: int = 20) -> list[float]:
    """Factors by which the steps of the last of so many equal cycles take longer; None is a pause of so many us."""
    state, now_s, factors = PowerState(LIMIT), 0.0, []
    for _ in range(times):
        factors = []
        for cost, us in steps:
            if cost is None:
                now_s += us / 1e6
                continue
            found_us = state.device_us(cost, now_s)
            factors.append(found_us / us)
            now_s += found_us / 1e6
    return factors


def test_pieces_of_work_in_a_row_take_as_long_as_the_whole():
    state, now_us = PowerState(LIMIT), 0.0
    for _ in range(9):
        now_us += state.device_us(prompts(10_000.0), now_us / 1e6)
    assert now_us == pytest.approx(taken(90_000.0), rel=0.01)


@pytest.mark.parametrize(
    ("pause_ms", "low", "high"), [(5, 1.06, 1.16), (10, 1.0, 1.06), (20, 1.0, 1.005), (160, 1.0, 1.0)]
)
def test_pauses_give_back_what_the_limit_takes(pause_ms: float, low: float, high: float):
    """Bursts of 20 ms on an H200 took 1.08, 1.02, 1.00 and 1.00 of their time."""
    (factor,) = in_cycles((prompts(20_000.0), 20_000.0), (None, 1e3 * pause_ms))
    assert low <= factor <= high + 1e-9


def test_decodes_give_it_back_more_slowly_and_are_held_down_a_little():
    """With 20 and 60 ms of decoding between such bursts they took 1.07 and 1.00, decoding 1.03 and less."""
    busy, calm = (in_cycles((prompts(20_000.0), 20_000.0), *[(decode(5_000.0), 5_000.0)] * count) for count in (4, 12))
    assert 1.04 < busy[0] < 1.12
    assert calm[0] < 1.01
    assert 1.0 < busy[1] < 1.035
    assert calm[-1] == 1.0
    assert busy[1] > busy[-1] > 1.0


def test_nothing_is_held_down_without_a_limit():
    state = PowerState(NO_LIMIT)
    for now_s in (0.0, 0.1, 0.2):
        assert state.device_us(decode(100_000.0), now_s) == 100_000.0
