"""The words of the project: the first line of a docstring, of a constant's too, can be read without decoding it."""

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "dooly"
DECODED = re.compile(r"(What|Of|As|Where|Those|That|By)\b")


def described(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of every docstring, and of every string below an assignment, which describes what was assigned."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield getattr(node, "lineno", 1), ast.get_docstring(node) or ""
            for above, below in pairwise(node.body):
                if isinstance(above, ast.Assign | ast.AnnAssign) and isinstance(below, ast.Expr):
                    value = below.value
                    yield below.lineno, str(value.value) if isinstance(value, ast.Constant) else ""


def test_a_docstring_begins_with_what_it_describes():
    """A noun phrase for a thing, an imperative for a function."""
    wrong = [
        f"{path.relative_to(PACKAGE)}:{line}: {text.splitlines()[0]}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for line, text in described(ast.parse(path.read_text(encoding="utf-8")))
        if DECODED.match(text)
    ]
    assert not wrong, "\n".join(wrong)
