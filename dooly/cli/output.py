"""How results and talk look: tables with units on stdout, or one JSON document; everything else on stderr."""

import json
import logging
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

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
from dooly.report import Column

__all__ = ["counted", "print_json", "print_table", "progress_bar", "say", "tell_notes", "tracked"]

WIDTH_WITHOUT_TERMINAL = 160

T = TypeVar("T")


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


def tracked(unit: str, description: str) -> Callable[[Sequence[T]], Iterator[T]]:
    """Go through a sequence under a `progress_bar`."""

    def track(items: Sequence[T]) -> Iterator[T]:
        with progress_bar(unit) as progress:
            yield from progress.track(items, description=description)

    return track


@contextmanager
def counted(unit: str, description: str, total: int) -> Generator[Callable[[int, int], None]]:
    """A `progress_bar` for work that says how many are done, and of how many."""
    with progress_bar(unit) as progress:
        task = progress.add_task(description, total=total)
        yield lambda done, _: progress.update(task, completed=done)


_BETWEEN_LINES_S = 15.0


class _Lines(Progress):
    """Progress in lines, some seconds apart: nothing of what is done sooner."""

    def __init__(self, unit: str) -> None:
        super().__init__(disable=True, auto_refresh=False)  # else a thread counts, which ends where nothing is shown
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
