"""Golden IR: ``tests/golden/<pass>.ir`` holds cases of a title, the text before and the text after that pass."""

import re
from pathlib import Path

import pytest

from dooly.ir import parse_program
from dooly.passes import PIPELINE, run, select

GOLDEN = Path(__file__).parent.parent / "golden"
CASE = re.compile(r"^=== ([^\n]+)\n(.*?)^--- after\n(.*?)(?=^=== |\Z)", re.MULTILINE | re.DOTALL)


def cases():
    for path in sorted(GOLDEN.glob("*.ir")):
        for title, before, after in CASE.findall(path.read_text()):
            yield pytest.param(path.stem, before, after, id=f"{path.stem}: {title}")


@pytest.mark.parametrize(("name", "before", "after"), list(cases()))
def test_golden(name, before, after, request):
    if request.config.getoption("--update-golden"):
        path = GOLDEN / f"{name}.ir"
        result = str(run(parse_program(before), select(name)))
        path.write_text(path.read_text().replace(f"{before}--- after\n{after}", f"{before}--- after\n{result}\n", 1))
        return
    assert str(run(parse_program(before), select(name))).strip() == after.strip()


def test_every_pass_has_golden_cases():
    assert {path.stem for path in GOLDEN.glob("*.ir")} == {each.name for each in PIPELINE}
