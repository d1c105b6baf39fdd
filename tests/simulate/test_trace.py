"""Arrival traces: their formats, one clear line for every mistake, and nothing but TraceError for any text."""

import contextlib
import math
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dooly.errors import TraceError
from dooly.simulate.synthetic import shipped_trace
from dooly.simulate.trace import Trace, TraceRequest
from dooly.simulate.trace_files import parse_trace, read_trace, write_trace
from dooly.simulate.trace_options import TraceOptions

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
        ("a,b,c\n1,2,3\n", "t: no column of prompt and output tokens; found: a, b, c; read are names such as prompt_t"),
        ("arrival_s,prompt_tokens\n0,1\n", "t: no column of output tokens; found: arrival_s, prompt_tokens; read"),
        ("TIMESTAMP,tokens\n0,1\n", "t: no column of prompt and output tokens; found: TIMESTAMP, tokens"),
        (";", "t: no column of prompt and output tokens; found: ;"),
        ('"5\n\x1b,b', "t: no column of prompt and output tokens; found: 5\\n\\x1b,b"),
        ("0,10,5\n1,11,6\n", "t: no column of prompt and output tokens; found: 0, 10, 5"),
        (HEADER.strip() + ",prompt_tokens\n0,1,1,2\n", "t:1: column prompt_tokens appears twice; found: arrival_s, "),
        ("input_len," + HEADER + "1,0,1,1\n", "t: columns input_len, prompt_tokens could all be the prompt column"),
        ("time,timestamp,isl,osl\n0,0,1,1\n", "t: columns time, timestamp could all be the arrival column"),
        (
            "job start,slot start,isl,osl\n0,0,1,1\n",
            "t: columns job start, slot start could all be the arrival column",
        ),
        ("inter_arrival_s,isl,osl\n0,1,1\n", "t: inter_arrival_s counts from another request, so only serving tells"),
        (HEADER + "0,1,1\n1,2\n", "t:3: 2 fields; the header has 3"),
        (
            HEADER + "-1,1,1\n",
            "t:2: arrival_s: '-1' is not a time of 0 or more; found: arrival_s, prompt_tokens, output_tokens; read: ",
        ),
        (HEADER + "nan,1,1\n", "t:2: arrival_s: 'nan' is neither a number nor a date and time"),
        (HEADER + "1e999,1,1\n", "t:2: arrival_s: '1e999' is not a time of 0"),
        (HEADER + "1_0,1,1\n", "t:2: arrival_s: '1_0' is neither a number nor"),
        (HEADER + "0,1.5,1\n", "t:2: prompt_tokens: '1.5' is not a whole number of tokens"),
        (
            HEADER + "0,,1\n",
            "t:2: prompt_tokens: a blank is not a whole number of tokens; found: arrival_s,",
        ),
        (HEADER + "0,1,0\n", "t: 1 of 1 requests have no output tokens; --trace-option zero=one"),
        (HEADER + "0,-3,1\n", "t:2: prompt_tokens: -3 tokens; expected 1 to"),
        (HEADER + "0,1,99999999999\n", "t:2: output_tokens: 99999999999 tokens; expected 0 to"),
        (
            AZURE + "2023-11-16 18:15:46,1,1\n5,1,1\n",
            "t:3: TIMESTAMP: '5' and the first row's time",
        ),
        (AZURE + "yesterday,1,1\n", "t:2: TIMESTAMP: 'yesterday' is neither a number nor a date and time"),
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
        (
            "1100",
            "1024",
            "t: the lengths of prompts do not tell how many tokens one of the hash_ids",
        ),
        ("1100", "1100.5", "t:1: input_length: 1100.5 is not a whole number of tokens; found: timestamp, input_length"),
        (
            '"input_length"',
            '"length"',
            "t: no column of prompt tokens; found: timestamp, length, output",
        ),
        ("3000", '"soon"', "t:1: timestamp: 'soon' is neither a number nor a date"),
        ("3000", "NaN", "t:1: timestamp: nan is not a time of 0 or more"),
        ("3000", "null", "t:1: timestamp: a blank is not a time"),
        ("3000", "true", "t:1: timestamp: True is not a time"),
        ("[0, 1, 2]", "[0, -1, 2]", "t:1: hash_ids: [0, -1, 2] is not a list of whole numbers from 0"),
        ("}", "", "t: not JSON"),
        ("}", ', "timestamp": 1}', "t: not JSON: key 'timestamp' appears twice"),
    ],
)
def test_refused_mooncake_lines(old: str, new: str, message: str) -> None:
    with pytest.raises(TraceError) as caught:
        parse_trace(MOONCAKE.replace(old, new), name="t")
    assert str(caught.value).startswith(message)


def requests_of(text: str, *options: str) -> list[tuple[float, int, int]]:
    trace = parse_trace(text, name="t", options=TraceOptions.parse(options))
    return [(round(r.arrival_s, 6), r.prompt_tokens, r.output_tokens) for r in trace.requests]


BENCH = (
    '{"date": "d", "num_prompts": 2, "total_input_tokens": 38, "input_lens": [13, 25], "output_lens": [120, 613], '
    '"ttfts": [1.05, 1.05], "itls": [[0.1], [0.2]], "errors": ["", ""], "start_times": [353399.7, 353400.4]}'
)


BURST = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,A,472,18,490,x\n45,B,9,2,11,x\n"
BURST_2 = "Timestamp,Session ID,Elapsed time,Request tokens,Response tokens\n5,,1.5,472,18\n45,,2,9,2\n"
VIDUR = "arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,374,44\n4.314,396,109\n"
ZONES = AZURE + "2023-11-16T18:15:46.680590Z,374,44\n2023-11-16T20:15:47.9951690+02:00,6,9\n"
SERVING = '{"input_toks": 12, "output_toks": 40, "arrival_time_ns": 11000000, "input_tok_ids": [1, 2]}'


def two_lines(first: str, second: str, more: str = "") -> str:
    line = '{%s"timestamp": %s, "input_length": 16, "output_length": 2}\n'
    return line % (more, first) + line % (more, second)


CHAT = '"chat_id": 1, "parent_chat_id": -1, '
APEX = "StartTimeOffset,ContextTokens,GeneratedTokens\n9000000,1,2\n409000000,3,4\n"
LISTED = '[{"timestamp_ms": 500, "isl": 3, "osl": 4},\n{"timestamp_ms": 700, "isl": 5, "osl": 6}]'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (VIDUR, [(0, 374, 44), (4.314, 396, 109)]),
        (ZONES, [(0, 374, 44), (1.314579, 6, 9)]),
        (AZURE + "2023-11-16 18:15:50,396,109\n2023-11-16 18:15:46,374,44\n", [(0, 374, 44), (4, 396, 109)]),
        (BURST, [(0, 472, 18), (40, 9, 2)]),
        (BURST_2, [(0, 472, 18), (40, 9, 2)]),
        ("# exported\n" + HEADER + "0,10,5\n# half way\n1,11,6\n", [(0, 10, 5), (1, 11, 6)]),
        (HEADER + "0,10.0,5\n1.50,20.,6\n", [(0, 10, 5), (1.5, 20, 6)]),
        ("," + HEADER + "0,0.5,10,5\n1,0.75,11,6\n", [(0, 10, 5), (0.25, 11, 6)]),
        (HEADER.replace(",", ";") + "0;10;5\n", [(0, 10, 5)]),
        (HEADER.replace(",", "\t") + "0\t10\t5\n", [(0, 10, 5)]),
        ("id," + HEADER + '"a,b",0,10,5\n"#2",1,11,6\n', [(0, 10, 5), (1, 11, 6)]),
        ("arrival_time,input_len,output_len\n0,10,5\n0.25,11,6\n", [(0, 10, 5), (0.25, 11, 6)]),
        ("arrival_time,input_len,output_len\n0,10,5\n400,11,6\n", [(0, 10, 5), (0.4, 11, 6)]),
        (APEX, [(0, 1, 2), (0.4, 3, 4)]),
        ("created_at,isl,osl\n1715299200123,1,2\n1715299200623,3,4\n", [(0, 1, 2), (0.5, 3, 4)]),
        ("time,prompt,output,num_prefill_tokens,num_decode_tokens\n0,1,2,10,5\n", [(0, 10, 5)]),
        (SERVING, [(0, 12, 40)]),
        (two_lines("0.0", "61.0"), [(0, 16, 2), (61, 16, 2)]),
        (two_lines("0", "61"), [(0, 16, 2), (0.061, 16, 2)]),
        (two_lines("2", "63", CHAT), [(0, 16, 2), (61, 16, 2)]),
        (BENCH, [(0, 13, 120), (0.7, 25, 613)]),
        (BENCH.replace(", ", ",\n  "), [(0, 13, 120), (0.7, 25, 613)]),
        (LISTED, [(0, 3, 4), (0.2, 5, 6)]),
    ],
)
def test_published_forms(text: str, expected: list[tuple[float, int, int]]) -> None:
    assert requests_of(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("timestamp,isl,osl\n0,1,1\n30,1,1\n", "t: the unit of 'timestamp' is not clear (s: 0.0333 requests/s;"),
        (MOONCAKE.replace("3000", "0") + MOONCAKE.replace("3000", "1"), "t: the unit of 'timestamp' is not clear (ms"),
        (
            MOONCAKE.replace("3000", "0") + MOONCAKE.replace("3000", "61.5"),
            "t: the unit of 'timestamp' is not clear (ms",
        ),
        ('{"session_id": "a", "delay": 500, "input_length": 6, "output_length": 5}', "t: delay counts from"),
        ('[{"id": "x", "conversations": [{"from": "human", "value": "hi"}]}]', "t: conversations as text"),
        ('{"input_lens": [1, 2], "output_lens": [1]}', "t: lists of different length: input_lens 2, output_lens 1"),
        ("[1, 2]", "t: JSON, but not a list of objects; expected one object for each request"),
        ('{"a": 1}', "t: no column of prompt and output tokens; found: a; read are names such as prompt_tokens"),
        ("[" * 100_000, "t: not JSON"),
    ],
)
def test_what_is_not_clear_is_refused(text: str, message: str) -> None:
    with pytest.raises(TraceError) as caught:
        parse_trace(text, name="t")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_options_decide() -> None:
    text = "timestamp,isl,osl,max len,sent\n0,1,1,7,0\n30,2,1,8,1\n"
    assert requests_of(text, "arrival=timestamp", "unit=ms") == [(0, 1, 1), (0.03, 2, 1)]
    assert requests_of(text, "arrival=sent", "prompt=max len") == [(0, 7, 1), (1, 8, 1)]
    zero = HEADER + "0,10,5\n1,11,0\n"
    assert requests_of(zero) == [(0, 10, 5)]
    assert requests_of(zero, "zero=one") == [(0, 10, 5), (1, 11, 1)]
    with pytest.raises(TraceError, match="t: no column 'when'; found: arrival_s"):
        requests_of(zero, "arrival=when")
    for wrong in ("unit=weeks", "zero=two", "block=0", "block=x", "blocks=16", "unit", "unit="):
        with pytest.raises(TraceError, match=wrong.partition("=")[0]):
            TraceOptions.parse([wrong])
    with pytest.raises(TraceError, match="unit is given twice for the trace: s and ms"):
        TraceOptions.parse(["unit=s", "unit=ms"])


def test_what_was_read_is_said() -> None:
    assert parse_trace(HEADER + "0,10,5\n", name="t").notes == ()
    text = "Timestamp,Model,Request tokens,Response tokens\n5,A,472,18\n45,B,9,0\n3,B,9,1\n"
    assert parse_trace(text, name="t").notes == (
        "t: prompt tokens from Request tokens, output tokens from Response tokens; arrivals from Timestamp in s (as "
        "BurstGPT publishes it); not read: Model",
        "t: 1 of 3 requests have no output tokens: skipped (--trace-option zero=one takes them as one token)",
        "t: 1 of 2 requests arrive before the one above them: sorted by arrival",
    )


def test_how_many_tokens_a_prefix_id_stands_for() -> None:
    row = '{"timestamp": 0, "input_length": %d, "output_length": 2, "hash_ids": %s}\n'
    assert parse_trace(row % (40, "[0, 1, 2]") + row % (600, "[3, 4]"), name="t").requests[0].prefix_block == 16
    assert parse_trace(row % (655, "[0, 1]") + row % (600, "[0]"), name="t").requests[0].prefix_block == 512
    given = TraceOptions(block=100)
    assert parse_trace(row % (655, "[0, 1]"), name="t", options=given).requests[0].prefix_block == 100
    with pytest.raises(TraceError, match="prefix ids stand for different numbers of tokens"):
        Trace("t", (TraceRequest(0, 5, 5), TraceRequest(0, 5, 5, (), 16)))


def test_conversations_are_counted_by_a_given_tokenizer(tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    words = Tokenizer(WordLevel({"?": 0}, unk_token="?"))
    words.pre_tokenizer = Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    words.save(str(tmp_path / "tokenizer.json"))
    turns = '{"from": "a", "value": "one two three"}, {"from": "b", "value": "four five"}, {"from": "a", "value": ""}'
    text = f'[{{"id": "x", "conversations": [{turns}]}}, {{"id": "y", "conversations": []}}]'
    assert requests_of(text, f"tokenizer={tmp_path}") == [(0, 3, 2)]
    with pytest.raises(TraceError, match=r"none/tokenizer\.json|none: no tokenizer"):
        requests_of(text, f"tokenizer={tmp_path / 'none'}")


def test_wide_characters_and_large_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes((HEADER + "0,1,2\n").encode("utf-16"))
    assert read_trace(path).requests == (TraceRequest(0, 1, 2),)
    monkeypatch.setattr("dooly.files._MOST_BYTES", 10)
    with pytest.raises(TraceError, match="more than 0 MiB"):
        read_trace(path)


def test_lengths_without_arrivals() -> None:
    trace = parse_trace("num_prefill_tokens,num_decode_tokens,pd_ratio\n30,2,15.0\n7,1,7.0\n", name="t")
    assert [(r.arrival_s, r.prompt_tokens, r.output_tokens) for r in trace.requests] == [(0.0, 30, 2), (0.0, 7, 1)]


@pytest.mark.parametrize(
    ("name", "seconds"), [("arrival_min", 60), ("start_time_hours", 3600), ("arrival_time_days", 86400)]
)
def test_units_of_more_than_a_second_are_those_that_the_name_states(name: str, seconds: int) -> None:
    trace = parse_trace(f"{name},prompt_tokens,output_tokens\n0,10,5\n3,10,5\n", name="t")
    assert trace.requests[1].arrival_s == 3 * seconds


def test_very_many_columns_are_refused_at_once() -> None:
    start = time.process_time()
    for text in (
        ",".join(f"c{at}" for at in range(100_000)),
        "{" + ",".join(f'"{at // 2}":1' for at in range(200_000)) + "}",
    ):
        with pytest.raises(TraceError):
            parse_trace(text, name="t")
    assert time.process_time() - start < 10
