"""Traces in files.  Four formats are read, told apart by their first line; further columns and keys are ignored:

* ours: CSV of ``arrival_s,prompt_tokens,output_tokens`` (seconds, from any origin)
* Azure 2023 and 2024, as published: CSV of ``TIMESTAMP,ContextTokens,GeneratedTokens`` (date and time, UTC if not said)
* lengths without arrivals, as Vidur publishes them: CSV of ``num_prefill_tokens,num_decode_tokens``; all arrive at once
* Mooncake, as published: a JSON object a line, with ``timestamp`` (ms), ``input_length``, ``output_length`` and
  ``hash_ids``, one id for each 512 tokens of the prompt
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dooly.errors import TraceError
from dooly.files import write_text
from dooly.simulate.trace import MAX_TOKENS, Trace, TraceRequest

__all__ = ["parse_trace", "read_trace", "write_trace"]

_FLOAT = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_INTEGER = re.compile(r"[+-]?\d{1,18}", re.ASCII)


def _seconds(text: str) -> float:
    value = float(text) if _FLOAT.fullmatch(text) else math.nan
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{text[:40]!r} is not a number of seconds, 0 or more")
    return value


def _timestamp(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return (moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()
    except (ValueError, OverflowError):
        raise ValueError(f"{text[:40]!r} is not a date and time such as 2023-11-16 18:15:46.6805900") from None


def _tokens(text: str) -> int:
    if not _INTEGER.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is not a whole number of tokens")
    if not 1 <= int(text) <= MAX_TOKENS:
        raise ValueError(f"{int(text)} tokens; expected 1 to {MAX_TOKENS}")
    return int(text)


_FORMATS: tuple[tuple[tuple[str, ...], Callable[[str], float]], ...] = (
    (("arrival_s", "prompt_tokens", "output_tokens"), _seconds),
    (("TIMESTAMP", "ContextTokens", "GeneratedTokens"), _timestamp),
    (("num_prefill_tokens", "num_decode_tokens"), _seconds),
)


def read_trace(path: str | Path) -> Trace:
    """Read an arrival trace in a format of this module.

    Raises:
        TraceError: one line with file and line number: no such file, no header, no rows, a missing column or field,
            a value that is negative, not a number or not whole, zero tokens, or an arrival before the one above it
            (rows are never reordered silently: a trace out of order is usually two traces in one file).
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise TraceError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise TraceError(f"{path}: not a text file (byte {error.start} is not UTF-8)") from error
    return parse_trace(text, name=str(path))


def parse_trace(text: str, *, name: str) -> Trace:
    """`read_trace` for text in hand; `name` stands for the file in messages.

    >>> parse_trace("arrival_s,prompt_tokens,output_tokens\\n5.0,10,2\\n5.5,20,1\\n", name="two").requests[1]
    TraceRequest(arrival_s=0.5, prompt_tokens=20, output_tokens=1)
    """
    found = _mooncake(text, name) if text.lstrip()[:1] == "{" else _table(text, name)
    origin: float | None = None
    requests: list[TraceRequest] = []
    for line, (arrival, prompt, output, prefix) in found:
        origin = arrival if origin is None else origin
        if requests and arrival - origin < requests[-1].arrival_s:
            raise TraceError(f"{name}:{line}: arrives before the request above it; sort the file by arrival")
        try:
            requests.append(TraceRequest(arrival - origin, prompt, output, prefix))
        except TraceError as error:
            raise TraceError(f"{name}:{line}: {error}") from None
    if not requests:
        raise TraceError(f"{name}: a header but no requests below it")
    return Trace(name, tuple(requests))


_Row = tuple[float, int, int, tuple[int, ...]]


def _table(text: str, name: str) -> Iterator[tuple[int, _Row]]:
    """Line number, arrival, lengths and no prefix of each row of a CSV file."""
    rows = _rows(text, name)
    line, header = next(rows, (0, []))
    if not header:
        raise TraceError(f"{name}: the file is empty; expected a header such as arrival_s,prompt_tokens,output_tokens")
    columns, read_arrival = _columns(header, f"{name}:{line}")
    for line, row in rows:
        if len(row) != len(header):
            raise TraceError(f"{name}:{line}: {len(row)} fields; the header has {len(header)}")
        try:
            arrival = read_arrival(row[columns[0]]) if len(columns) > 2 else 0.0
            yield line, (arrival, _tokens(row[columns[-2]]), _tokens(row[columns[-1]]), ())
        except ValueError as error:
            raise TraceError(f"{name}:{line}: {error}") from None


def _mooncake(text: str, name: str) -> Iterator[tuple[int, _Row]]:
    """Line number, arrival, lengths and prefix ids of each line of a JSON lines file."""
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            fields: dict[str, Any] = json.loads(line)
            ids: list[Any] = fields.get("hash_ids", [])
            if any(type(value) is not int for value in (fields["input_length"], fields["output_length"], *ids)):
                raise ValueError("lengths and ids must be whole numbers")
            arrival = float(fields["timestamp"]) / 1e3
            yield number, (arrival, fields["input_length"], fields["output_length"], tuple(ids))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            what = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise TraceError(f"{name}:{number}: not a line of a Mooncake trace: {what}") from None


def _rows(text: str, name: str) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of each row that is not blank."""
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        for row in reader:
            fields = [field.strip() for field in row]
            if any(fields):
                yield reader.line_num, fields
    except csv.Error as error:
        raise TraceError(f"{name}:{reader.line_num}: not CSV: {error}") from error


def _columns(header: list[str], place: str) -> tuple[list[int], Callable[[str], float]]:
    """Positions of arrival (where there is one), prompt and output in the header, and how to read an arrival."""
    for names, read_arrival in _FORMATS:
        missing = [column for column in names if column not in header]
        if not missing:
            return [header.index(column) for column in names], read_arrival
        if len(missing) < len(names):
            raise TraceError(f"{place}: no column {' or '.join(missing)}; the header is {','.join(header)[:80]!r}")
    expected = " or ".join(",".join(names) for names, _ in _FORMATS)
    raise TraceError(f"{place}: unknown header {','.join(header)[:80]!r}; expected {expected}")


def write_trace(trace: Trace, path: str | Path) -> None:
    """Write `trace`, arrivals to the microsecond: in our format, or in Mooncake's if any request has a prefix.

    Raises:
        DoolyError: the file cannot be written.
    """
    if any(r.prefix for r in trace.requests):
        objects = (
            {
                "timestamp": round(r.arrival_s * 1e3, 3),
                "input_length": r.prompt_tokens,
                "output_length": r.output_tokens,
                "hash_ids": r.prefix,
            }
            for r in trace.requests
        )
        write_text(path, "".join(json.dumps(fields) + "\n" for fields in objects))
        return
    lines: Iterable[str] = (f"{r.arrival_s:.6f},{r.prompt_tokens},{r.output_tokens}\n" for r in trace.requests)
    write_text(path, "arrival_s,prompt_tokens,output_tokens\n" + "".join(lines))
