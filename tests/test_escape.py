"""Names, targets and files of others on the terminal and in cells: what a terminal obeys is spelled out."""

import sys

import pytest

from dooly.cli import main
from dooly.cli.output import print_table, say
from dooly.errors import CaptureError, ParseError
from dooly.escape import csv_cell, escaped, show
from dooly.report import Column

HOSTILE = "\x1b[31m[red]x[/red]\x07\u202e\x9b2J"
SPELLED = r"\x1b[31m[red]x[/red]\x07\u202e\x9b2J"


@pytest.mark.parametrize(
    ("text", "spelled"),
    [(HOSTILE, SPELLED), ("两 é\n  ^", "两 é\n  ^"), ("\ttab\r", r"\ttab\r"), ("\ud800", r"\ud800")],
)
def test_what_cannot_be_seen_is_spelled_out_once(text, spelled):
    assert escaped(text) == spelled
    assert escaped(spelled) == spelled


def test_tables_talk_and_lines_are_harmless(capsys):
    print_table(HOSTILE, [Column("name", "name")], [{"name": HOSTILE}, {"name": "two\nlines"}])
    say(HOSTILE)
    show(HOSTILE)
    show(HOSTILE, sys.stderr)
    out, err = capsys.readouterr()
    assert out.count(SPELLED) == 3
    assert r"two\nlines" in out
    assert err == f"{SPELLED}\n{SPELLED}\n"


def test_errors_are_harmless_and_their_caret_stands_where_it_should():
    assert str(CaptureError(HOSTILE)) == SPELLED
    _, source, caret = str(ParseError("no", 1, 1 + len(HOSTILE), f"{HOSTILE}!")).split("\n")
    assert source[caret.index("^")] == "!"


@pytest.mark.parametrize("arguments", [["kernels", f"{HOSTILE}.json"], [HOSTILE]])
def test_arguments_are_harmless(arguments, capsys):
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert r"\x1b[31m" in err
    assert all(c.isprintable() or c == "\n" for c in err)


@pytest.mark.parametrize("text", ["=1+1", "+1", "-x", "@sum", "\t=1", "\r=1"])
def test_no_cell_is_a_formula(text):
    assert csv_cell(text) == f"'{text}"
    assert csv_cell(f"a{text}") == f"a{text}"
