"""Text of others, made harmless: for a terminal, which takes control characters for commands, and for spreadsheets."""

import sys
from typing import TextIO

__all__ = ["csv_cell", "escaped", "show"]


def escaped(text: str) -> str:
    r"""The text with every character that cannot be seen spelled out; line ends stay.

    >>> print(escaped("red \x1b[31m, hidden \u202e"))
    red \x1b[31m, hidden \u202e
    """
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def show(text: str, file: TextIO | None = None) -> None:
    """Print a line, on stdout unless a file is given, with what cannot be seen in it spelled out."""
    print(escaped(text), file=file or sys.stdout)


def csv_cell(text: str) -> str:
    """The text as a cell that no spreadsheet takes for a formula.

    >>> csv_cell("=1+1"), csv_cell("llama")
    ("'=1+1", 'llama')
    """
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
