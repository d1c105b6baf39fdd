"""How results and talk look: tables with units on stdout, or one JSON document; everything else on stderr."""

import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table as RichTable

from dooly.escape import escaped

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
        table.add_row(*(_cell(column.text(row[column.key])) for column in columns))
    console = Console(highlight=False, markup=False, soft_wrap=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=WIDTH_WITHOUT_TERMINAL)
    console.print(escaped(title), style="bold", soft_wrap=True)
    console.print(table)


def _cell(text: str) -> str:
    """On one line, since a row is one."""
    return escaped(text).replace("\n", "\\n")


def print_json(document: Any) -> None:
    """Results for programs, on stdout: one JSON document."""
    json.dump(document, sys.stdout, indent=2)
    sys.stdout.write("\n")


def say(message: str) -> None:
    """Talk, on stderr."""
    Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print(escaped(message))


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
    """A bar on stderr that counts ``unit`` and disappears when done; without a terminal a line now and then."""
    if not sys.stderr.isatty():
        return _Lines(unit)
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )


_BETWEEN_LINES_S = 15.0


class _Lines(Progress):
    """Progress in lines, some seconds apart: nothing of what is done sooner."""

    def __init__(self, unit: str) -> None:
        super().__init__(disable=True)
        self._unit, self._said_s = unit, time.monotonic()

    def update(self, task_id: TaskID, **fields: Any) -> None:
        """Note how far a task is, and say so where that was long ago."""
        super().update(task_id, **fields)
        self._tell(task_id)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """Advance the bar by so many steps."""
        super().advance(task_id, advance)
        self._tell(task_id)

    def _tell(self, task_id: TaskID) -> None:
        if time.monotonic() - self._said_s < _BETWEEN_LINES_S:
            return
        self._said_s = time.monotonic()
        task = self.tasks[self.task_ids.index(task_id)]
        of = f" of {task.total:,.0f}" if task.total else ""
        say(f"{task.description}: {task.completed:,.0f}{of} {self._unit}")
