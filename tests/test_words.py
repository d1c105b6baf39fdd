"""The words of the project: the first line of a docstring can be read without decoding it."""

import ast
import re
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "dooly"
DECODED = re.compile(r"(What|Of|As|Where|Those|That|By)\b")


def test_a_docstring_begins_with_what_it_describes():
    """A noun phrase for a thing, an imperative for a function."""
    wrong: list[str] = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node) or ""
                if DECODED.match(text):
                    place = f"{path.relative_to(PACKAGE)}:{getattr(node, 'lineno', 1)}"
                    wrong.append(f"{place}: {text.splitlines()[0]}")
    assert not wrong, "\n".join(wrong)
