import pytest
from hypothesis import given
from hypothesis import strategies as st

from dooly.adapters.vidur.step import Mixed, step_of
from dooly.batch import Batch
from dooly.errors import PredictError

requests = st.lists(st.tuples(st.integers(1, 300) | st.just(1), st.integers(0, 1500)), min_size=1, max_size=20)


@given(requests, st.none() | st.integers(1, 400))
def test_halves_add_up_to_the_whole(pairs: list[tuple[int, int]], window: int | None) -> None:
    step, whole = step_of(tuple(pairs)), Batch.of(*pairs)
    assert isinstance(step, Mixed) == (whole.kind == "mixed")
    assert step.attention(window) == whole.attention(window)
    assert (step.requests, step.count, step.tokens, step.logits) == (
        whole.requests,
        whole.count,
        whole.tokens,
        whole.logits,
    )


def test_halves_are_those_that_decode_and_the_others() -> None:
    step = step_of(((1, 9), (5, 0), (1, 0), (1, 3)))
    assert isinstance(step, Mixed)
    assert (step.decodes.requests, step.others.requests) == (((1, 9), (1, 3)), ((5, 0), (1, 0)))


@pytest.mark.parametrize("pairs", [(), ((0, 3), (1, 2))])
def test_no_step_is_refused(pairs: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(PredictError, match="batch:"):
        step_of(pairs)
