"""Batches as spans: nothing but the order within a step is lost, and requests that go on take one row."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dooly.evaluate.spans import from_spans, to_spans

batches = st.lists(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 6)), max_size=6), max_size=8)


@given(batches)
def test_steps_come_back_sorted(steps: list[list[tuple[int, int]]]) -> None:
    assert from_spans(to_spans(steps), len(steps)) == [sorted(step) for step in steps]


def test_a_request_that_decodes_is_one_row() -> None:
    steps = [[(64, 0)], *([(1, 64 + n), (1, 9 + n)] for n in range(50))]
    assert to_spans(steps) == [(0, 64, 0, 1), (1, 1, 9, 50), (1, 1, 64, 50)]


def test_a_row_beyond_the_last_step() -> None:
    with pytest.raises(ValueError, match="there are 3"):
        from_spans([(2, 1, 0, 2)], 3)
