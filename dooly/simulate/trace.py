"""Arrival traces: when requests arrive and how long they are.  Reads files; imports neither torch nor vLLM.

Two CSV formats are read, told apart by their header; further columns are ignored:

* ours: ``arrival_s,prompt_tokens,output_tokens`` (seconds, from any origin)
* Azure 2023 and 2024, as published: ``TIMESTAMP,ContextTokens,GeneratedTokens`` (date and time, UTC unless it says)
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import polars as pl

from dooly.errors import TraceError
from dooly.files import write_text

__all__ = ["PREFIX_BLOCK", "Trace", "TraceRequest", "read_trace", "write_trace"]

PREFIX_BLOCK = 512
"""Tokens of a prompt that one prefix id stands for (as Mooncake publishes them)."""

MAX_TOKENS = 2**31 - 1
_FLOAT = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_INTEGER = re.compile(r"[+-]?\d{1,18}", re.ASCII)


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """One request.

    Attributes:
        arrival_s: seconds after the first one.
        prompt_tokens, output_tokens: its lengths.
        prefix: ids of its leading blocks of `PREFIX_BLOCK` tokens: prompts that begin with the same ids begin with
            the same tokens.  The prompt may end in the last one; what no id covers is like no other prompt.
    """

    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    prefix: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not (math.isfinite(self.arrival_s) and self.arrival_s >= 0):
            raise TraceError(f"arrival of {self.arrival_s} s; expected a number of seconds, 0 or more")
        for name, tokens in (("prompt", self.prompt_tokens), ("output", self.output_tokens)):
            if not 1 <= tokens <= MAX_TOKENS:
                raise TraceError(f"{tokens} {name} tokens; expected 1 to {MAX_TOKENS}")
        if self.prefix and (min(self.prefix) < 0 or (len(self.prefix) - 1) * PREFIX_BLOCK >= self.prompt_tokens):
            raise TraceError(
                f"{len(self.prefix)} prefix ids for {self.prompt_tokens} prompt tokens; expected ids from 0, at most "
                f"one for each {PREFIX_BLOCK} tokens"
            )


@dataclass(frozen=True)
class Trace:
    """Requests in order of arrival; time zero is the arrival of the first.

    Attributes:
        name: where it comes from (file name or generator).
        requests: at least one; arrivals never decrease.
        clipped: how many requests `clip` has shortened.

    Raises:
        TraceError: there is no request, or an arrival precedes the one before it.
    """

    name: str
    requests: tuple[TraceRequest, ...]
    clipped: int = 0

    def __post_init__(self) -> None:
        if not self.requests:
            raise TraceError(f"{self.name}: the trace holds no request")
        for index, (earlier, later) in enumerate(pairwise(self.requests), start=2):
            if later.arrival_s < earlier.arrival_s:
                raise TraceError(f"{self.name}: request {index} arrives before the one above it; sort by arrival")

    def __len__(self) -> int:
        return len(self.requests)

    @property
    def duration_s(self) -> float:
        """Seconds from the first arrival to the last."""
        return self.requests[-1].arrival_s - self.requests[0].arrival_s

    @property
    def rate(self) -> float:
        """Mean arrivals per second; infinite when all arrive at once."""
        return (len(self) - 1) / self.duration_s if self.duration_s > 0 else math.inf

    def first(self, count: int) -> Trace:
        """The first `count` requests (all, if there are fewer)."""
        if count < 1:
            raise TraceError(f"asked for the first {count} requests of {self.name}; expected at least 1")
        return replace(self, requests=self.requests[:count])

    def at_rate(self, requests_per_s: float) -> Trace:
        """The same requests, arrivals stretched or squeezed in proportion to a mean of `requests_per_s`."""
        if not (math.isfinite(requests_per_s) and requests_per_s > 0):
            raise TraceError(f"rate of {requests_per_s} requests/s; expected a positive number")
        if math.isinf(self.rate):
            raise TraceError(f"{self.name}: all requests arrive at once, so there is no rate to change")
        factor = self.rate / requests_per_s
        return replace(self, requests=tuple(replace(r, arrival_s=r.arrival_s * factor) for r in self.requests))

    def clip(self, max_model_len: int) -> Trace:
        """Shorten what does not fit: output to half of `max_model_len` tokens, then prompt to what is left.

        `clipped` of the result counts the requests that were changed, so that a report can say it.
        """
        if max_model_len < 2:
            raise TraceError(f"maximum model length of {max_model_len}; expected at least 2 tokens")
        kept: list[TraceRequest] = []
        clipped = self.clipped
        for request in self.requests:
            if request.prompt_tokens + request.output_tokens > max_model_len:
                output = min(request.output_tokens, max_model_len // 2)
                prompt = min(request.prompt_tokens, max_model_len - output)
                blocks = -(-prompt // PREFIX_BLOCK)
                request = TraceRequest(request.arrival_s, prompt, output, request.prefix[:blocks])
                clipped += 1
            kept.append(request)
        return replace(self, requests=tuple(kept), clipped=clipped)

    def frame(self) -> pl.DataFrame:
        """Columns arrival_s, prompt_tokens, output_tokens."""
        return pl.DataFrame(
            {
                "arrival_s": [r.arrival_s for r in self.requests],
                "prompt_tokens": [r.prompt_tokens for r in self.requests],
                "output_tokens": [r.output_tokens for r in self.requests],
            },
            schema={"arrival_s": pl.Float64, "prompt_tokens": pl.Int64, "output_tokens": pl.Int64},
        )


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


_FORMATS: tuple[tuple[tuple[str, str, str], Callable[[str], float]], ...] = (
    (("arrival_s", "prompt_tokens", "output_tokens"), _seconds),
    (("TIMESTAMP", "ContextTokens", "GeneratedTokens"), _timestamp),
)


def read_trace(path: str | Path) -> Trace:
    """Read an arrival trace in either format of this module.

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
    rows = _rows(text, name)
    line, header = next(rows, (0, []))
    if not header:
        raise TraceError(f"{name}: the file is empty; expected a header such as {','.join(_FORMATS[0][0])}")
    columns, read_arrival = _columns(header, f"{name}:{line}")
    origin: float | None = None
    requests: list[TraceRequest] = []
    for line, row in rows:
        place = f"{name}:{line}"
        if len(row) != len(header):
            raise TraceError(f"{place}: {len(row)} fields; the header has {len(header)}")
        try:
            arrival = read_arrival(row[columns[0]])
            prompt, output = _tokens(row[columns[1]]), _tokens(row[columns[2]])
        except ValueError as error:
            raise TraceError(f"{place}: {error}") from None
        origin = arrival if origin is None else origin
        if requests and arrival - origin < requests[-1].arrival_s:
            raise TraceError(f"{place}: arrives before the request above it; sort the file by arrival")
        requests.append(TraceRequest(arrival - origin, prompt, output))
    if not requests:
        raise TraceError(f"{name}: a header but no requests below it")
    return Trace(name, tuple(requests))


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


def _columns(header: list[str], place: str) -> tuple[tuple[int, int, int], Callable[[str], float]]:
    """Positions of arrival, prompt and output in the header, and how to read an arrival."""
    for names, read_arrival in _FORMATS:
        missing = [column for column in names if column not in header]
        if not missing:
            return (header.index(names[0]), header.index(names[1]), header.index(names[2])), read_arrival
        if len(missing) < len(names):
            raise TraceError(f"{place}: no column {' or '.join(missing)}; the header is {','.join(header)[:80]!r}")
    expected = " or ".join(",".join(names) for names, _ in _FORMATS)
    raise TraceError(f"{place}: unknown header {','.join(header)[:80]!r}; expected {expected}")


def write_trace(trace: Trace, path: str | Path) -> None:
    """Write `trace` in our format, arrivals to the microsecond.

    Raises:
        DoolyError: the file cannot be written.
    """
    lines: Iterable[str] = (f"{r.arrival_s:.6f},{r.prompt_tokens},{r.output_tokens}\n" for r in trace.requests)
    write_text(path, "arrival_s,prompt_tokens,output_tokens\n" + "".join(lines))
