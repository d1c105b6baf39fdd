import pytest
from hypothesis import given
from hypothesis import strategies as st

from dooly.adapters import Forecast, Load
from dooly.batch import Batch, StepCost
from dooly.errors import PredictError


class Spy:
    """100 us a step and 1 us a token; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Batch] = []

    def step_time(self, batch: Batch) -> StepCost:
        self.asked.append(batch)
        total = 100.0 + batch.tokens
        return StepCost(0.0, total, 0.0, total)


def test_an_idle_engine_takes_the_prompt_in_chunks() -> None:
    spy = Spy()
    assert Forecast(spy, budget=512).ttft_s(1200) == pytest.approx((3 * 100 + 1200) * 1e-6)
    assert [batch.requests for batch in spy.asked] == [((512, 0),), ((512, 512),), ((176, 1024),)]


def test_decodes_go_first_and_grow_and_others_before_us_join_them() -> None:
    spy = Spy()
    Forecast(spy, budget=64).ttft_s(100, Load(decoding=(10, 20), waiting=(50,)))
    assert [batch.requests for batch in spy.asked] == [
        ((1, 10), (1, 20), (50, 0), (12, 0)),
        ((1, 11), (1, 21), (1, 50), (61, 12)),
        ((1, 12), (1, 22), (1, 51), (27, 73)),
    ]


def test_the_next_step_is_the_first_of_them() -> None:
    spy = Spy()
    load = Load(decoding=(10,), waiting=(50,))
    assert Forecast(spy, budget=32).next_step_s(load) == pytest.approx(132e-6)
    assert spy.asked[-1].requests == ((1, 10), (31, 0))


sizes = st.lists(st.integers(1, 300), max_size=5).map(tuple)


@given(st.integers(1, 2000), sizes, sizes, st.integers(16, 600))
def test_every_prompt_token_is_computed_once(prompt: int, decoding, waiting, budget: int) -> None:
    spy = Spy()
    Forecast(spy, budget=budget).ttft_s(prompt, Load(decoding, waiting))
    assert all(batch.tokens <= budget for batch in spy.asked)
    cached = sum(q + c for q, c in spy.asked[-1].requests)
    steps = len(spy.asked)
    grown = sum(c + steps for c in decoding)
    assert cached >= grown + sum(waiting) + prompt
    assert spy.asked[-1].requests[-1][0] + spy.asked[-1].requests[-1][1] == prompt


@pytest.mark.parametrize(
    ("forecast", "prompt", "load", "message"),
    [
        (Forecast(Spy()), 0, Load(), "a prompt of 0 tokens"),
        (Forecast(Spy(), budget=2), 5, Load(decoding=(1, 2)), "2 requests decode; .* no room"),
        (Forecast(Spy(), seats=1), 5, Load(decoding=(1,)), "1 requests decode; .* no room"),
    ],
)
def test_what_cannot_be_answered_is_said(forecast: Forecast, prompt: int, load: Load, message: str) -> None:
    with pytest.raises(PredictError, match=message):
        forecast.ttft_s(prompt, load)


def test_nothing_to_do_is_no_step() -> None:
    with pytest.raises(PredictError, match="no requests"):
        Forecast(Spy()).next_step_s(Load())
