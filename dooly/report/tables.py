"""Tables of records: columns with formats, and their text for a page or a file."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dooly.escape import csv_cell

__all__ = ["Column", "Table", "as_csv", "markdown"]


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


def as_csv(table: Table) -> str:
    """The table as CSV: a line of keys, then a line for each row with full numbers."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(column.key for column in table.columns)
    writer.writerows([_plain(row[column.key]) for column in table.columns] for row in table.rows)
    return text.getvalue()


def _plain(value: Any) -> Any:
    return csv_cell(value) if isinstance(value, str) else value
