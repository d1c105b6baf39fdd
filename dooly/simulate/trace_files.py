"""Traces in files: CSV, JSON lines or one JSON document, as dooly and others publish them.

Columns are found by the words of their names (`trace_columns`), the unit of arrival times by their name or by evidence
(`trace_times`), and the tokens of a prefix id by the lengths of prompts; what was found is part of the trace's notes.
Among the files that need no option are those of Azure 2023 and 2024, Vidur, Mooncake, Alibaba, BurstGPT, LLMServingSim
and ``vllm bench serve --save-detailed``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

from dooly.errors import TraceError
from dooly.files import read_bytes, write_text
from dooly.simulate.trace import MAX_TOKENS, PREFIX_BLOCK, Trace, TraceRequest
from dooly.simulate.trace_columns import PREFIX, Columns, choose_columns, listed
from dooly.simulate.trace_options import TraceOptions
from dooly.simulate.trace_records import Records, read_records
from dooly.simulate.trace_times import DATES, Time, find_unit, read_time, seconds

__all__ = ["parse_trace", "read_trace", "write_trace"]

OWN = ("arrival_s", "prompt_tokens", "output_tokens")
"""Columns of dooly's own form."""

_WHOLE = re.compile(r"[+-]?\d{1,18}(\.0*)?", re.ASCII)
_BLOCKS = tuple(2**power for power in range(3, 13))


def read_trace(path: str | Path, options: TraceOptions | None = None) -> Trace:
    """Read an arrival trace.

    Raises:
        TraceError: one line with the file, the row, what was found and what is read: no such file, no rows, a column
            that is missing or doubled, a blank, a value that is negative, not a number or not whole, or a unit that
            nothing tells.
    """
    path = Path(path)
    try:
        content = read_bytes(path)
    except OSError as error:
        raise TraceError(f"{path}: cannot be read: {error.strerror or error}") from error
    wide = content[:2] in (b"\xff\xfe", b"\xfe\xff")
    try:
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise TraceError(f"{path}: not a text file (byte {error.start} is not UTF-{16 if wide else 8})") from error
    return parse_trace(text, name=str(path), options=options)


def parse_trace(text: str, *, name: str, options: TraceOptions | None = None) -> Trace:
    """`read_trace` for text in hand; `name` stands for the file in messages.

    >>> parse_trace("arrival_s,prompt_tokens,output_tokens\\n5.0,10,2\\n5.5,20,1\\n", name="two").requests[1]
    TraceRequest(arrival_s=0.5, prompt_tokens=20, output_tokens=1, prefix=(), prefix_block=512)
    """
    options = TraceOptions() if options is None else options
    records = read_records(text, name, options.tokenizer)
    columns = choose_columns(records.columns, options, name)
    rows = _rows(records, columns)
    if not rows:
        raise TraceError(f"{name}: a header but no requests below it")
    block, sure = _block(rows, options.block, name)
    try:
        unit, when = _unit(rows, columns, records, options.unit, block if sure else None)
    except TraceError as error:
        raise TraceError(f"{name}: {error}; found: {listed(records.columns)}") from None
    rows, notes = _with_output(rows, options.zero, name)
    requests: list[TraceRequest] = []
    for row, arrival_s in zip(rows, seconds([row.time for row in rows], unit), strict=True):
        try:
            requests.append(TraceRequest(arrival_s, row.prompt, row.output, row.prefix, block))
        except TraceError as error:
            raise TraceError(f"{records.place.format(row.number)}: {error}") from None
    late = sum(later.arrival_s < earlier.arrival_s for earlier, later in pairwise(requests))
    if late:
        notes.append(f"{late} of {len(requests)} requests arrive before the one above them: sorted by arrival")
        requests.sort(key=lambda request: request.arrival_s)
    if records.columns[:3] != OWN or columns.prefix:
        notes.insert(0, _reading(columns, records.columns, when, block if columns.prefix else None))
    return Trace(name, tuple(requests), notes=tuple(f"{name}: {note}" for note in notes))


@dataclass(frozen=True, slots=True)
class _Row:
    """Cells of one request.

    Attributes:
        number: of the row in the file.
        time: arrival in the file's unit; 0 where the file has none.
    """

    number: int
    time: Time
    prompt: int
    output: int
    prefix: tuple[int, ...]


def _rows(records: Records, columns: Columns) -> list[_Row]:
    """All rows, output tokens of zero included.

    Raises:
        TraceError: a cell says nothing that can be read.
    """
    rows: list[_Row] = []
    name = ""
    read = columns.names
    for number, cells in records.rows(read):
        found = dict(zip(read, cells, strict=True))
        try:
            time: Time = 0
            name = columns.prompt
            prompt = _tokens(found[name], least=1)
            name = columns.output
            output = _tokens(found[name], least=0)
            if columns.arrival is not None:
                name = columns.arrival
                time = read_time(found[name])
                if rows and _kind(time) != _kind(rows[0].time):
                    raise ValueError(f"{found[name]!r} and the first row's time are not of one kind")
            prefix = ()
            if columns.prefix is not None:
                name = columns.prefix
                prefix = _ids(found[name])
            rows.append(_Row(number, time, prompt, output, prefix))
        except ValueError as error:
            raise TraceError(
                f"{records.place.format(number)}: {listed([name])}: {error}; found: {listed(records.columns)}; "
                f"read: {listed(read)}"
            ) from None
    return rows


def _kind(time: Time) -> str:
    return "number" if isinstance(time, int | float) else DATES


def _tokens(cell: Any, *, least: int) -> int:
    """Number of tokens in a cell."""
    if isinstance(cell, str):
        value = int(cell.partition(".")[0]) if _WHOLE.fullmatch(cell) else None
    elif isinstance(cell, int | float) and not isinstance(cell, bool):
        value = int(cell) if cell % 1 == 0 else None
    else:
        value = None
    if value is None:
        shown = "a blank" if cell in ("", None) else repr(cell)[:40]
        raise ValueError(f"{shown} is not a whole number of tokens")
    if not least <= value <= MAX_TOKENS:
        raise ValueError(f"{value} tokens; expected {least} to {MAX_TOKENS}")
    return value


def _ids(cell: Any) -> tuple[int, ...]:
    """Prefix ids in a cell; none in one that is missing."""
    if cell is None:
        return ()
    if isinstance(cell, str):
        cell = json.loads(cell) if cell.startswith("[") else cell.split()
    values = cast(list[int], cell) if isinstance(cell, list) else [-1]
    if any(type(value) is not int or value < 0 for value in values):
        raise ValueError(f"{repr(cell)[:40]} is not a list of whole numbers from 0")
    return tuple(values)


def _with_output(rows: Sequence[_Row], zero: str, name: str) -> tuple[list[_Row], list[str]]:
    """Rows that ask for output, and what is said of the others."""
    empty = sum(not row.output for row in rows)
    if not empty:
        return list(rows), []
    told = f"{empty} of {len(rows)} requests have no output tokens"
    if zero == "one":
        taken = [_Row(row.number, row.time, row.prompt, max(row.output, 1), row.prefix) for row in rows]
        return taken, [f"{told}: taken as one token"]
    kept = [row for row in rows if row.output]
    if not kept:
        raise TraceError(f"{name}: {told}; --trace-option zero=one takes them as one token")
    return kept, [f"{told}: skipped (--trace-option zero=one takes them as one token)"]


def _unit(
    rows: Sequence[_Row], columns: Columns, records: Records, asked: str | None, block: int | None
) -> tuple[str, str]:
    """Unit of the arrival times, and what is said of them."""
    if columns.arrival is None:
        return "s", "no arrival times, so all requests arrive at once"
    times = [row.time for row in rows]
    unit, why = find_unit(columns.arrival, times, records.columns, block) if asked is None else (asked, "as asked")
    if _kind(times[0]) == DATES:
        unit, why = DATES, ""
    return unit, f"arrivals from {listed([columns.arrival])} in {unit}" + (f" ({why})" if why else "")


def _block(rows: Sequence[_Row], given: int | None, name: str) -> tuple[int, bool]:
    """Tokens of a prefix id, and whether the prompts tell 16 from 512, the published numbers.

    A prompt whose ids cover it to its end speaks for a number of tokens; ids beyond its end exclude one.

    Raises:
        TraceError: no power of two fits.
    """
    prefixed = [row for row in rows if row.prefix]
    if given is not None or not prefixed:
        return given or PREFIX_BLOCK, False
    possible = [b for b in _BLOCKS if all((len(row.prefix) - 1) * b < row.prompt for row in prefixed)]
    exact = {b: sum(-(-row.prompt // b) == len(row.prefix) for row in prefixed) for b in possible}
    most = max(exact.values(), default=0)
    if not most:
        raise TraceError(
            f"{name}: the lengths of prompts do not tell how many tokens one of the hash_ids stands for; say it with "
            "--trace-option block=TOKENS"
        )
    best = [b for b in possible if exact[b] == most]
    return (PREFIX_BLOCK if PREFIX_BLOCK in best else best[0]), not {16, PREFIX_BLOCK} <= set(best)


def _reading(columns: Columns, found: Sequence[str], when: str, block: int | None) -> str:
    """Describe what was taken from which column."""
    unread = [each for each in found if each not in columns.names]
    parts = [f"prompt tokens from {listed([columns.prompt])}, output tokens from {listed([columns.output])}", when]
    parts += [f"{block} tokens of the prompt for each of hash_ids"] if block else []
    parts += [f"not read: {listed(unread)}"] if unread else []
    return "; ".join(parts)


def write_trace(trace: Trace, path: str | Path) -> None:
    """Write `trace` in dooly's own form, arrivals to the microsecond: CSV, or JSON lines if any request has a prefix.

    Raises:
        DoolyError: the file cannot be written.
    """
    lines: Iterable[str]
    if any(r.prefix for r in trace.requests):
        cells = ((round(r.arrival_s, 6), r.prompt_tokens, r.output_tokens, r.prefix) for r in trace.requests)
        lines = (json.dumps(dict(zip((*OWN, PREFIX), values, strict=True))) + "\n" for values in cells)
        write_text(path, "".join(lines))
        return
    lines = (f"{r.arrival_s:.6f},{r.prompt_tokens},{r.output_tokens}\n" for r in trace.requests)
    write_text(path, f"{','.join(OWN)}\n" + "".join(lines))
