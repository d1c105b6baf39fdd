"""Documentation that runs: every python block and every console block, with the output below it."""

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest

from dooly.cli import main as dooly
from dooly.cli.reference import command_line
from dooly.ir import parse_program
from dooly.passes.__main__ import main as passes
from scripts.operation_table import PAGE, operation_table

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

Block = tuple[int, str, str]


def blocks(page: Path) -> list[Block]:
    """(line, language, text) of each fenced block."""
    text = page.read_text()
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, match.start()) + 1, match[1], match[2]) for match in found]


def consoles(page: Path) -> list[tuple[list[str], str, str]]:
    """Arguments, expected output and place of each command in the console blocks of a page, in their order."""
    return [
        (shlex.split(command), output, f"{page.name}:{line}")
        for line, language, text in blocks(page)
        if language == "console"
        for command, output in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", text, re.MULTILINE)
    ]


def pages_with_consoles() -> list[object]:
    """Pages whose commands run; those that capture or measure need the engine."""
    ran = [(page, [arguments for arguments, _, _ in consoles(page)]) for page in PAGES]
    return [
        pytest.param(
            page,
            id=str(page.relative_to(ROOT)),
            marks=[] if all("docs/mlp.ir" in arguments for arguments in all_arguments) else [pytest.mark.engine],
        )
        for page, all_arguments in ran
        if all_arguments
    ]


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


def test_every_option_of_the_command_line_says_what_it_means():
    empty = [line for line in command_line().splitlines() if re.match(r"^\| `[^`]+` \| +\|", line)]
    assert not empty


def test_every_page_is_in_the_site():
    listed = set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text()))
    written = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    assert listed == written | {"reference/command-line.md"}


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_pages_that_the_code_names_exist():
    for folder in ("dooly", "scripts", "benchmarks", "tests"):
        for source in (ROOT / folder).rglob("*.py"):
            for page in re.findall(r"docs/[\w/.-]+\.(?:md|ir)\b", source.read_text()):
                assert (ROOT / page).exists(), f"{source.relative_to(ROOT)}: {page}"


@pytest.mark.parametrize("page", pages_with_consoles())
def test_console_blocks_print_what_the_page_says(page: Path, monkeypatch, tmp_path, capsys):
    """In an empty folder, one command after the other.  Three dots in the page stand for any text."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DOOLY_DB", raising=False)
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    for arguments, output, place in consoles(page):
        assert command(arguments) == 0, f"{place}: {capsys.readouterr().err}"
        parts = [re.escape(part) for part in re.split(r"^ *\.\.\.\n", output, flags=re.MULTILINE)]
        pattern = "(?:.*\n)*?".join(part.replace(r"\.\.\.", ".*") for part in parts)
        printed = capsys.readouterr().out
        assert re.fullmatch(pattern, printed), f"{place}:\n{printed}"


def command(arguments: list[str]) -> int:
    """Run ``dooly`` or ``python -m dooly.passes`` in this process."""
    if arguments[:3] == ["python", "-m", "dooly.passes"]:
        return passes(arguments[3:])
    assert arguments[0] == "dooly", arguments
    return dooly(arguments[1:])
