"""How results and talk look: tables with units on stdout, or one JSON document; everything else on stderr."""

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table as RichTable

__all__ = ["Column", "Table", "markdown", "print_json", "print_table", "progress_bar", "say", "tell_notes"]

WIDTH_WITHOUT_TERMINAL = 160


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        key: of the row's value; the same key names it in JSON, so it carries the unit (``total_us``).
        title: header, with the unit in parentheses where there is one.
        form: format of numbers, e.g. ``,.1f``; values that are None show as a dash.
    """

    key: str
    title: str
    form: str = ""

    def text(self, value: Any) -> str:
        """The cell."""
        if value is None:
            return "-"
        return format(value, self.form) if self.form else str(value)


@dataclass(frozen=True)
class Table:
    """A table that is printed, or written into a page.

    Attributes:
        note: a sentence below it.
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Any]]
    note: str = ""


def markdown(table: Table) -> str:
    """The table with title and note as paragraphs around it, for a page."""
    heads = [column.title for column in table.columns]
    rules = ["---:" if column.form else "---" for column in table.columns]
    cells = [[column.text(row[column.key]) for column in table.columns] for row in table.rows]
    lines = "\n".join(f"| {' | '.join(line)} |" for line in (heads, rules, *cells))
    return "\n\n".join(part for part in (table.title, lines, table.note) if part) + "\n"


def print_table(title: str, columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> None:
    """Results for people, on stdout."""
    table = RichTable(header_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column.title, justify="right" if column.form else "left", overflow="fold")
    for row in rows:
        table.add_row(*(column.text(row[column.key]) for column in columns))
    console = Console(highlight=False, markup=False, soft_wrap=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=WIDTH_WITHOUT_TERMINAL)
    console.print(title, style="bold", soft_wrap=True)
    console.print(table)


def print_json(document: Any) -> None:
    """Results for programs, on stdout: one JSON document."""
    json.dump(document, sys.stdout, indent=2)
    sys.stdout.write("\n")


def say(message: str) -> None:
    """Talk, on stderr."""
    Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print(message)


class _Talk(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


def tell_notes() -> None:
    """Let the notes of the library, which it logs under ``dooly``, reach stderr as talk."""
    log = logging.getLogger("dooly")
    log.setLevel(logging.INFO)
    log.propagate = False
    log.handlers = [_Talk()]


def progress_bar(unit: str) -> Progress:
    """A bar on stderr that counts ``unit``; it disappears when done, and is silent where stderr is no terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
