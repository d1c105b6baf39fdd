import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dooly.batch import MOST_CACHED, MOST_TOKENS, TILE, Batch, BatchColumns
from dooly.errors import PredictError

requests = st.lists(st.tuples(st.integers(1, 40) | st.integers(120, 140), st.integers(0, 60)), min_size=1, max_size=12)
windows = st.none() | st.integers(1, 50)


def enumerate_keys(q: int, c: int, window: int | None) -> tuple[int, int, int]:
    """Rows read and pairs attended by one request, by listing every key of every query."""
    keys = [set(range(0 if window is None else max(0, c + j - window), c + j)) for j in range(1, q + 1)]
    return len(set().union(*keys)), sum(len(k) for k in keys), q


@given(requests, windows)
def test_symbols_agree_with_listing_every_key(pairs: list[tuple[int, int]], window: int | None) -> None:
    listed = [enumerate_keys(q, c, window) for q, c in pairs]
    symbols = Batch.of(*pairs).attention(window)
    assert symbols["S"] == sum(rows for rows, _, _ in listed)
    assert symbols["P"] == sum(n for _, n, _ in listed)
    prefill = [(rows, n, q) for rows, n, q in listed if q > 1]
    assert [symbols[name] for name in ("Sp", "Pp", "Tp")] == [sum(row[i] for row in prefill) for i in range(3)]
    assert symbols["M"] == bool(prefill)
    longest = max(rows for rows, _, _ in listed)
    assert (symbols["Sd"], symbols["Sx"]) == ((0, longest) if prefill else (longest, 0))
    assert symbols["Sq"] == max((rows for rows, _, _ in prefill), default=0)
    assert symbols["Pt"] == sum(n * math.ceil(q / TILE) * TILE // q for _, n, q in prefill)
    assert (symbols["T"], symbols["R"]) == (sum(q for q, _ in pairs), len(pairs))


@given(st.lists(requests, min_size=1, max_size=6), windows)
def test_columns_agree_with_single_batches(many: list[list[tuple[int, int]]], window: int | None) -> None:
    batches = [Batch.of(*pairs) for pairs in many]
    columns = BatchColumns.of(batches)
    assert len(columns) == len(batches)
    for name, column in columns.attention(window).items():
        assert column.tolist() == [batch.attention(window)[name] for batch in batches]
    for name, column in columns.symbols(window).items():
        assert column.tolist() == [batch.symbols(window)[name] for batch in batches]


@given(requests)
def test_point_forgets_order_only(pairs: list[tuple[int, int]]) -> None:
    point = Batch.of(*pairs).point()
    again = Batch.from_point(point)
    assert sorted(again.requests) == sorted(pairs)
    assert again.point() == point == Batch.of(*reversed(pairs)).point()
    assert point["requests"] == sorted(point["requests"])


@pytest.mark.parametrize(
    ("pairs", "kind"),
    [
        (((1, 5), (1, 9)), "decode"),
        (((4, 0), (4, 9)), "prefill"),
        (((1, 0),), "prefill"),
        (((1, 3), (2, 0)), "mixed"),
    ],
)
def test_kind(pairs: tuple[tuple[int, int], ...], kind: str) -> None:
    assert Batch.of(*pairs).kind == kind


@pytest.mark.parametrize(
    ("pairs", "logits", "message"),
    [
        ((), 0, "no requests"),
        (((0, 4),), 0, "request 0 has 0 new and 4 cached"),
        (((1, 1), (1, -1)), 0, "request 1 has 1 new and -1 cached"),
        (((2, 0),), 3, "3 rows of logits; expected 0 to 2"),
        (((2, 0),), -1, "-1 rows of logits"),
    ],
)
def test_bad_batches_are_refused(pairs: tuple[tuple[int, int], ...], logits: int, message: str) -> None:
    with pytest.raises(PredictError, match=message):
        Batch(pairs, logits)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"requests": 3}', '{"requests": [[1]]}', '{"requests": [["a", 1, 1]]}']
)
def test_bad_points_are_refused(text: str) -> None:
    with pytest.raises(PredictError, match="expected"):
        Batch.from_point(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1:1x65537", "65,537 requests in one step; the limit is 65,536"),
        (",".join(["1:1x999999"] * 5000), "4,999,995,000 requests in one step"),
        ("999999999:0", "999,999,999 new tokens in one step; the limit is 1,048,576"),
        ("1:999999999", "999,999,999 cached tokens of one request; the limit is 134,217,728"),
    ],
)
def test_steps_beyond_any_engine_are_refused_at_once(text: str, message: str) -> None:
    with pytest.raises(PredictError, match=message):
        Batch.parse(text)


def test_the_largest_steps_add_up_exactly() -> None:
    largest = [Batch.of((MOST_TOKENS, MOST_CACHED)), Batch.of((MOST_TOKENS // 2 + 1, MOST_CACHED), (3, MOST_CACHED))]
    columns = BatchColumns.of(largest).attention()
    for place, batch in enumerate(largest):
        assert {name: column[place] for name, column in columns.items()} == batch.attention()


def test_logits_default_to_one_row_a_request() -> None:
    assert Batch.of((7, 0), (1, 3)).symbols()["L"] == 2
    assert Batch.of((7, 0), (1, 3), logits=1).symbols()["L"] == 1
    assert BatchColumns.of([Batch.of((7, 0), logits=0)]).symbols()["L"].tolist() == [0]


def test_columns_are_flat_arrays() -> None:
    columns = BatchColumns.of([Batch.of((1, 2), (3, 4)), Batch.of((5, 6))])
    assert columns.new.tolist() == [1, 3, 5]
    assert columns.starts.tolist() == [0, 2]
    assert columns.new.dtype == np.int64
