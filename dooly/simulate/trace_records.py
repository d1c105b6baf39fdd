"""Rows of a trace file with named columns, whatever the file is: CSV, JSON lines, or one JSON document."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from dooly.errors import TraceError
from dooly.simulate.trace_columns import listed, role_of
from dooly.simulate.trace_conversations import conversations

__all__ = ["Records", "read_records"]

Cell = Any
"""Text of a CSV file, or a JSON value; None where a JSON object lacks the key."""


@dataclass(frozen=True)
class Records:
    """Rows with named columns.

    Attributes:
        columns: names as the file has them, in its order.
        rows: yields the number of each row and its cells under the given names.
        place: how messages name a row: the file, and ``{}`` for its number.
    """

    columns: tuple[str, ...]
    rows: Callable[[Sequence[str]], Iterator[tuple[int, list[Cell]]]]
    place: str


def read_records(text: str, name: str, tokenizer: Path | None) -> Records:
    """Find out what `text` is.

    Args:
        name: file name in messages.
        tokenizer: folder of the tokenizer that counts the tokens of conversations.

    Raises:
        TraceError: it is empty, or neither CSV nor JSON.
    """
    if text.lstrip()[:1] in ("{", "["):
        return _json(text, name, tokenizer)
    return _csv(text, name)


# -- CSV --------------------------------------------------------------------------------------------------------------


def _csv(text: str, name: str) -> Records:
    rows = _csv_rows(text, name, ",")
    line, header = next(rows, (0, []))
    if not header:
        raise TraceError(f"{name}: the file is empty; expected a header such as arrival_s,prompt_tokens,output_tokens")
    found = {mark: next(_csv_rows(text, name, mark), (0, list[str]()))[1] for mark in ",;\t|"}
    mark = max(found, key=lambda each: len(found[each]))
    header = found[mark]
    _refuse_duplicates(header, f"{name}:{line}")

    def cells(names: Sequence[str]) -> Iterator[tuple[int, list[Cell]]]:
        at = [header.index(each) for each in names]
        rows = _csv_rows(text, name, mark)
        next(rows)
        for number, row in rows:
            if len(row) != len(header):
                if row[0].startswith("#"):
                    continue
                raise TraceError(f"{name}:{number}: {len(row)} fields; the header has {len(header)}")
            yield number, [row[index] for index in at]

    return Records(tuple(header), cells, f"{name}:{{}}")


def _csv_rows(text: str, name: str, mark: str) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of each row that is not blank, from the first that is no comment."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark)
    begun = False
    try:
        for row in reader:
            fields = [field.strip() for field in row]
            if any(fields) and (begun or not fields[0].startswith("#")):
                begun = True
                yield reader.line_num, fields
    except csv.Error as error:
        raise TraceError(f"{name}:{reader.line_num}: not CSV: {error}") from error


def _refuse_duplicates(names: Sequence[str], place: str) -> None:
    twice = sorted(each for each, count in Counter(names).items() if each and count > 1)
    if twice:
        raise TraceError(f"{place}: column {listed(twice[:1])} appears twice; found: {listed(names)}")


# -- JSON -------------------------------------------------------------------------------------------------------------


def _json(text: str, name: str, tokenizer: Path | None) -> Records:
    lines = [
        (number, line)
        for number, line in enumerate(text.split("\n"), start=1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    if len(lines) > 1 and _is_object(lines[0][1]):
        return _objects([(number, _object(line, f"{name}:{number}")) for number, line in lines], f"{name}:{{}}")
    document = _loads(text, name)
    if isinstance(document, dict):
        whole = cast(dict[str, Cell], document)
        arrays = {key: cast(list[Cell], value) for key, value in whole.items() if isinstance(value, list)}
        if any(role_of(key) for key in arrays):
            return _arrays(arrays, name)
        return _objects([(lines[0][0], whole)], f"{name}:{{}}")
    entries = cast(list[Cell], document) if isinstance(document, list) else []
    if not entries or not all(isinstance(each, dict) for each in entries):
        raise TraceError(f"{name}: JSON, but not a list of objects; expected one object for each request")
    objects = cast(list[dict[str, Cell]], entries)
    if "conversations" in objects[0]:
        objects = conversations(objects, name, tokenizer)
    return _objects(list(enumerate(objects, start=1)), f"{name}, entry {{}}")


def _loads(text: str, place: str) -> Cell:
    try:
        return json.loads(text, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{place}: not JSON: {error}") from None


def _without_duplicates(pairs: list[tuple[str, Cell]]) -> dict[str, Cell]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"key {twice!r} appears twice in an object")
    return found


def _is_object(line: str) -> bool:
    """Whether one line of a file is a whole JSON object."""
    return line.lstrip().startswith("{") and line.rstrip().endswith("}")


def _object(line: str, place: str) -> dict[str, Cell]:
    found = _loads(line, place)
    if not isinstance(found, dict):
        raise TraceError(f"{place}: JSON, but not an object; expected one object a line")
    return cast(dict[str, Cell], found)


def _objects(objects: list[tuple[int, dict[str, Cell]]], place: str) -> Records:
    names = tuple(dict.fromkeys(name for _, fields in objects for name in fields))

    def cells(wanted: Sequence[str]) -> Iterator[tuple[int, list[Cell]]]:
        for number, fields in objects:
            yield number, [fields.get(each) for each in wanted]

    return Records(names, cells, place)


def _arrays(arrays: dict[str, list[Cell]], name: str) -> Records:
    """Rows of an object that holds one list for each column."""

    def cells(wanted: Sequence[str]) -> Iterator[tuple[int, list[Cell]]]:
        lengths = {each: len(arrays[each]) for each in wanted}
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{listed([each])} {length}" for each, length in lengths.items())
            raise TraceError(f"{name}: lists of different length: {told}")
        for number, row in enumerate(zip(*(arrays[each] for each in wanted), strict=True), start=1):
            yield number, list(row)

    return Records(tuple(arrays), cells, f"{name}, request {{}}")
