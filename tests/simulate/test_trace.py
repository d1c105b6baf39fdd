"""Arrival traces: both formats, one clear line for every mistake, and nothing but TraceError for any text."""

import contextlib
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dooly.errors import TraceError
from dooly.simulate.synthetic import shipped_trace
from dooly.simulate.trace import Trace, TraceRequest
from dooly.simulate.trace_files import parse_trace, read_trace, write_trace

HEADER = "arrival_s,prompt_tokens,output_tokens\n"
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


def trace_of(*rows: tuple[float, int, int]) -> Trace:
    return Trace("test", tuple(TraceRequest(*row) for row in rows))


def test_own_format_starts_at_its_first_arrival() -> None:
    trace = parse_trace(HEADER + "10.5,100,3\n\n10.5,1,1\n12,7,2\n", name="t")
    assert trace == Trace("t", trace_of((0, 100, 3), (0, 1, 1), (1.5, 7, 2)).requests)


def test_columns_are_found_by_name() -> None:
    text = "id,output_tokens,arrival_s,prompt_tokens\na,3,0,100\n"
    assert parse_trace(text, name="t").requests == (TraceRequest(0, 100, 3),)


def test_azure_format_as_published() -> None:
    text = AZURE + "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n"
    first, second = parse_trace(text, name="t").requests
    assert (first.arrival_s, first.prompt_tokens, first.output_tokens) == (0, 374, 44)
    assert second.arrival_s == pytest.approx(4.314579, abs=1e-6)


def test_azure_format_with_time_zone() -> None:
    text = AZURE + "2024-05-10 23:59:59+00:00,1,1\n2024-05-11 00:00:01.5,1,1\n"
    assert parse_trace(text, name="t").duration_s == 2.5


def test_byte_order_mark_and_windows_lines(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"\xef\xbb\xbf" + (HEADER + "0,1,2\n").replace("\n", "\r\n").encode())
    assert read_trace(path).requests == (TraceRequest(0, 1, 2),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "t: the file is empty; expected a header"),
        ("\n \n", "t: the file is empty"),
        (HEADER, "t: a header but no requests"),
        ("a,b,c\n1,2,3\n", "t:1: unknown header 'a,b,c'; expected arrival_s"),
        ("arrival_s,prompt_tokens\n0,1\n", "t:1: no column output_tokens"),
        ("TIMESTAMP,tokens\n0,1\n", "t:1: no column ContextTokens or GeneratedTokens"),
        (HEADER + "0,1,1\n1,2\n", "t:3: 2 fields; the header has 3"),
        (HEADER + "-1,1,1\n", "t:2: '-1' is not a number of seconds"),
        (HEADER + "nan,1,1\n", "t:2: 'nan' is not a number of seconds"),
        (HEADER + "1e999,1,1\n", "t:2: '1e999' is not a number of seconds"),
        (HEADER + "1_0,1,1\n", "t:2: '1_0' is not a number of seconds"),
        (HEADER + "0,1.5,1\n", "t:2: '1.5' is not a whole number of tokens"),
        (HEADER + "0,,1\n", "t:2: '' is not a whole number of tokens"),
        (HEADER + "0,1,0\n", "t:2: 0 tokens; expected 1 to"),
        (HEADER + "0,-3,1\n", "t:2: -3 tokens; expected 1 to"),
        (HEADER + "0,1,99999999999\n", "t:2: 99999999999 tokens; expected 1 to"),
        (HEADER + "5,1,1\n\n4,1,1\n", "t:4: arrives before the request above it; sort"),
        (AZURE + "yesterday,1,1\n", "t:2: 'yesterday' is not a date and time"),
        (HEADER + '"0,1,1\n' + "x" * 140_000, "t:3: not CSV"),
    ],
)
def test_mistakes_are_one_line_with_the_place(text: str, message: str) -> None:
    with pytest.raises(TraceError) as caught:
        parse_trace(text, name="t")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"none\.csv: cannot be read: No such file"):
        read_trace(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"arrival_s\xff")
    with pytest.raises(TraceError, match=r"binary\.csv: not a text file \(byte 9 is not UTF-8\)"):
        read_trace(tmp_path / "binary.csv")


CELL = st.one_of(
    st.text(max_size=8),
    st.integers().map(str),
    st.floats().map(str),
    st.datetimes().map(str),
    st.sampled_from(["", "0", "1", '"', "\x00", "1e5", "9" * 5000, "0001-01-01 00:00:00+23:59", "9999-12-31"]),
)
LINE = st.one_of(st.sampled_from([HEADER.strip(), AZURE.strip()]), st.lists(CELL, max_size=5).map(",".join), st.text())


@given(st.one_of(st.text(), st.lists(LINE, max_size=6).map("\n".join)))
def test_any_text_is_a_trace_or_a_trace_error(text: str) -> None:
    with contextlib.suppress(TraceError):
        trace = parse_trace(text, name="t")
        assert trace.frame().height == len(trace)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_trace_or_a_trace_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("any") / "t.csv"
    path.write_bytes(HEADER.encode() + content)
    with contextlib.suppress(TraceError):
        read_trace(path)


@given(
    st.lists(st.tuples(st.integers(0, 10**9), st.integers(1, 10**6), st.integers(1, 10**6)), min_size=1, max_size=20)
)
def test_writing_and_reading_keeps_the_trace(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int, int]]
) -> None:
    rows.sort()
    origin = rows[0][0]
    trace = trace_of(*(((micro - origin) / 1e6, prompt, output) for micro, prompt, output in rows))
    path = tmp_path_factory.mktemp("round") / "t.csv"
    write_trace(trace, path)
    assert read_trace(path).requests == trace.requests


def test_first_rate_and_clip() -> None:
    trace = trace_of((0, 10, 10), (1, 90, 20), (4, 50, 100), (6, 200, 3))
    assert trace.rate == 0.5
    assert trace.first(2).requests == trace.requests[:2]
    assert trace.first(99) == trace
    faster = trace.at_rate(5)
    assert faster.rate == pytest.approx(5)
    assert [r.arrival_s for r in faster.requests] == pytest.approx([0, 0.1, 0.4, 0.6])
    clipped = trace.clip(100)
    assert clipped.clipped == 3
    assert [(r.prompt_tokens, r.output_tokens) for r in clipped.requests] == [(10, 10), (80, 20), (50, 50), (97, 3)]
    assert clipped.clip(100) == clipped


@given(st.integers(2, 300), st.integers(1, 500), st.integers(1, 500))
def test_clipping_always_fits(limit: int, prompt: int, output: int) -> None:
    (request,) = trace_of((0, prompt, output)).clip(limit).requests
    assert request.prompt_tokens + request.output_tokens <= max(limit, 2)
    assert request.prompt_tokens <= prompt
    assert request.output_tokens <= output


def test_helpers_refuse_nonsense() -> None:
    trace = trace_of((0, 1, 1), (1, 1, 1))
    with pytest.raises(TraceError, match="first 0 requests"):
        trace.first(0)
    for rate in (0, -1, math.nan, math.inf):
        with pytest.raises(TraceError, match="expected a positive number"):
            trace.at_rate(rate)
    with pytest.raises(TraceError, match="all requests arrive at once"):
        trace_of((0, 1, 1), (0, 1, 1)).at_rate(1)
    with pytest.raises(TraceError, match="at least 2 tokens"):
        trace.clip(1)
    with pytest.raises(TraceError, match="holds no request"):
        Trace("t", ())
    with pytest.raises(TraceError, match="request 2 arrives before"):
        trace_of((1, 1, 1), (0, 1, 1))


def test_shipped_trace_is_readable() -> None:
    trace = shipped_trace("azure-conv")
    assert len(trace) == 1000
    assert 4 < trace.rate < 7


MOONCAKE = '{"timestamp": 3000, "input_length": 1100, "output_length": 5, "hash_ids": [0, 1, 2]}\n'


def test_mooncake_files(tmp_path: Path) -> None:
    second = MOONCAKE.replace("3000", "4500").replace("1, 2", "1, 7")
    trace = parse_trace(MOONCAKE + "\n" + second, name="t")
    assert [(r.arrival_s, r.prompt_tokens, r.prefix) for r in trace.requests] == [
        (0.0, 1100, (0, 1, 2)),
        (1.5, 1100, (0, 1, 7)),
    ]
    write_trace(trace, tmp_path / "t.jsonl")
    assert read_trace(tmp_path / "t.jsonl").requests == trace.requests
    assert trace.clip(800).requests[0].prefix == (0, 1)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("1100", "1024", "t:1: 3 prefix ids for 1024 prompt tokens"),
        ("1100", "1100.5", "t:1: not a line of a Mooncake trace: lengths and ids must be whole"),
        ('"input_length"', '"length"', "t:1: not a line of a Mooncake trace: no 'input_length'"),
        ("3000", '"soon"', "t:1: not a line of a Mooncake trace: could not convert"),
        ("3000", "NaN", "t:1: arrival of nan s"),
        ("[0, 1, 2]", "[0, -1, 2]", "t:1: 3 prefix ids"),
        ("}", "", "t:1: not a line of a Mooncake trace"),
    ],
)
def test_refused_mooncake_lines(old: str, new: str, message: str) -> None:
    with pytest.raises(TraceError) as caught:
        parse_trace(MOONCAKE.replace(old, new), name="t")
    assert str(caught.value).startswith(message)


def test_lengths_without_arrivals() -> None:
    trace = parse_trace("num_prefill_tokens,num_decode_tokens,pd_ratio\n30,2,15.0\n7,1,7.0\n", name="t")
    assert [(r.arrival_s, r.prompt_tokens, r.output_tokens) for r in trace.requests] == [(0.0, 30, 2), (0.0, 7, 1)]
