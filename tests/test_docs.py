"""Documentation that runs: every python block, and every console block of the passes, with the output below it."""

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest

from dooly.ir import parse_program
from dooly.passes.__main__ import main
from scripts.operation_table import PAGE, operation_table

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PASSES = "$ python -m dooly.passes "

Block = tuple[int, str, str]


def blocks(page: Path) -> list[Block]:
    """(line, language, text) of each fenced block."""
    text = page.read_text()
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, match.start()) + 1, match[1], match[2]) for match in found]


def consoles() -> list[object]:
    """Command and expected output of each console block that runs the passes; those that capture need the engine."""
    cases: list[object] = []
    for page in PAGES:
        for line, language, text in blocks(page):
            if language != "console" or not text.startswith(PASSES):
                continue
            command, _, output = text.partition("\n")
            arguments = shlex.split(command.removeprefix(PASSES))
            marks = [] if arguments[0].endswith(".ir") else [pytest.mark.engine]
            cases.append(pytest.param(arguments, output, id=f"{page.name}:{line}", marks=marks))
    return cases


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_blocks_run_and_print_what_the_page_says(page: Path, monkeypatch):
    monkeypatch.chdir(ROOT)
    namespace: dict[str, object] = {"__name__": page.stem}
    printed = ""
    for line, language, text in blocks(page):
        if language == "python":
            stdout = io.StringIO()
            with contextlib.redirect_stdout(stdout):
                exec(compile("\n" * line + text, str(page), "exec"), namespace)
            printed = stdout.getvalue()
        elif language == "text":
            assert printed == text, f"{page.name}:{line}"
        elif language == "ir":
            assert str(parse_program(text)) == text, f"{page.name}:{line}"


def test_the_table_of_operations_is_what_the_rules_say():
    assert PAGE.read_text() == operation_table(), "run `make docs`"


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_pages_that_the_code_names_exist():
    for folder in ("dooly", "scripts", "benchmarks", "tests"):
        for source in (ROOT / folder).rglob("*.py"):
            for page in re.findall(r"docs/[\w/.-]+\.(?:md|ir)\b", source.read_text()):
                assert (ROOT / page).exists(), f"{source.relative_to(ROOT)}: {page}"


@pytest.mark.parametrize(("arguments", "output"), consoles())
def test_console_blocks_print_what_the_page_says(arguments, output, monkeypatch, capsys):
    """A line of three dots in the page stands for any number of lines."""
    monkeypatch.chdir(ROOT)
    assert main(arguments) == 0
    parts = [re.escape(part) for part in re.split(r"^ *\.\.\.\n", output, flags=re.MULTILINE)]
    printed = capsys.readouterr().out
    assert re.fullmatch("(?:.*\n)*?".join(parts), printed), printed
