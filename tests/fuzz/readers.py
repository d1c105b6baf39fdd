"""What dooly reads, one row each: a reader under test, inputs to begin with, and how they are spoiled.

To add a reader, write a function that takes the bytes of an input and an empty folder to put files into, and calls what
reads them as a user's command does; then add a row to `READERS` with a few small valid inputs and a mutator of
`tests.fuzz.mutators` (or one of your own: a function of random numbers and seeds).  A reader may return or raise a
`DoolyError` of one clear line.  Anything else is a finding: another exception (assertions of the row itself, such as
"what was read is written and read as the same", count), more than 5 s, more than 2 GiB.

    python -m tests.fuzz NAME --inputs 100000 --processes 2 -o findings
"""

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dooly.errors import DoolyError, ParseError
from dooly.ir import evaluate, format_expr, parse_expr, parse_program, symbols_of
from dooly.ir.expr_parser import ExprSyntaxError
from dooly.ir.opset import OPSET
from dooly.passes import PIPELINE, run, select
from tests.fuzz.mutators import Mutator, change_bytes, change_ir, change_size, one_of

__all__ = ["READERS", "Reader"]

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Reader:
    """One row.

    Attributes:
        name: on the command line.
        seeds: valid inputs, read once.
        mutate: makes an input of them.
        read: reads the input; the folder is its to write into, and holds what the input before it left.
    """

    name: str
    seeds: Callable[[], Sequence[bytes]]
    mutate: Mutator
    read: Callable[[bytes, Path], None]


# --- texts of the IR


@cache
def _ir_texts() -> tuple[bytes, ...]:
    paths = [*(ROOT / "tests/golden").glob("*.ir"), ROOT / "docs/mlp.ir"]
    texts = [part for path in paths for part in re.split(r"^(?:===.*|---.*)\n", path.read_text(), flags=re.MULTILINE)]
    operations = re.split(r"^(?=operation )", (ROOT / "dooly/data/models.ir").read_text(), flags=re.MULTILINE)[1:]
    texts += [operations[at] for at in range(0, len(operations), 40)]
    return tuple(text.encode() for text in sorted(set(texts)) if text.strip() and len(text) < 4000)


def _targets() -> tuple[str, ...]:
    captured = {name.decode() for text in _ir_texts() for name in re.findall(rb"= ([A-Za-z_]\w*(?:\.\w+)*)\(", text)}
    return tuple(sorted({*OPSET, *captured, "no.such"}))


def _read_ir(data: bytes, folder: Path) -> None:
    """Parse, run passes, print and count: what is printed is read as the same again."""
    text = _named(data.decode(errors="replace"))
    program = parse_program(text)
    assert parse_program(str(program)) == program
    passes = re.match(r"# -p (\S+)\n", text)
    result = run(program, select(passes[1]) if passes else PIPELINE)
    if result.graphs or result.operations:
        assert parse_program(str(result)) == result
    for operation in result.operations:
        assert str(operation.flops)
        assert str(operation.bytes)


def _named(text: str) -> str:
    """The text with the names of changed operations made right: those would otherwise be the only error found."""
    for _ in range(4):
        try:
            parse_program(text)
        except ParseError as error:
            right = re.search(r"the name does not match the work described: expected @(\S+)", str(error))
            if right is None:
                break
            lines = text.split("\n")
            lines[error.line - 1] = re.sub(r"@[\w.]+", f"@{right[1]}", lines[error.line - 1], count=1)
            text = "\n".join(lines)
        else:
            break
    return text


# --- sizes


def _read_size(data: bytes, folder: Path) -> None:
    """Parse and evaluate: what is printed is read as the same, and has the same value."""
    try:
        size = parse_expr(data.decode(errors="replace"))
    except ExprSyntaxError as error:
        raise DoolyError(str(error)) from error
    again = parse_expr(format_expr(size))
    assert again == size
    values = {name: number for number, name in enumerate(sorted(symbols_of(size)), 3)}
    with suppress(ZeroDivisionError):
        assert evaluate(size, values) == evaluate(again, values)


READERS: tuple[Reader, ...] = (
    Reader("size", lambda: (b"64*((V + 63)//64)/TP", b"max(Nkv, 1)*D"), change_size, _read_size),
    Reader(
        "ir",
        _ir_texts,
        one_of((1, change_bytes), (12, change_ir(_targets(), [each.name for each in PIPELINE]))),
        _read_ir,
    ),
)
