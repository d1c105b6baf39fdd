"""Formulas of bundled models ship, and what was fitted once is kept for the same points and code."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dooly.cli.output import tell_notes
from dooly.database import Environment, Known, NoPoints, Point, Samples
from dooly.database.exchange import shipped_files
from dooly.hardware.environment import environment_for, stored_machine
from dooly.ir import Program
from dooly.workspace import captures, digest, fitted
from dooly.workspace.fitted import Fitted, fit_once, fitted_key, is_current, shipped
from dooly.workspace.lowering import lower
from dooly.workspace.store import look_into, open_database

NEVER = ["torch", "vllm", "transformers"]
"""Imported by capturing and measuring only."""
SLOW = [*NEVER, "scipy", "statsmodels", "pandas", "sqlalchemy"]
"""Half a second and more each, for fitting and for databases of one's own."""

RUN = """
import json, resource, sys
from dooly.cli import main

status = main(json.loads(sys.argv[1]))
used = resource.getrusage(resource.RUSAGE_SELF)
found = [name for name in json.loads(sys.argv[2]) if name in sys.modules]
sys.stderr.write(json.dumps([status, found, used.ru_utime + used.ru_stime]))
"""

PREDICT = ["predict", "llama-3.1-8b", "--gpu", "h200", "--batch", "1:512x64"]
BENCH = ["bench", "llama-3.1-8b", "--gpu", "h200", "--num-prompts", "200"]


def in_an_empty_folder(folder: Path, arguments: list[str], names: list[str]):
    """Exit status, which modules of these were imported, and CPU seconds, of a command with no cache of its own."""
    command = [sys.executable, "-c", RUN, json.dumps(arguments), json.dumps(names)]
    environment = {"PATH": "", "PYTHONPATH": str(Path.cwd()), "DOOLY_CACHE": str(folder / "cache")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stderr.splitlines()[-1])


@pytest.mark.parametrize(
    ("arguments", "names", "cpu_s"),
    [(["--help"], [*SLOW, "numpy", "sympy"], 0.3), (PREDICT, SLOW, 1.5), (BENCH, SLOW, 3)],
)
def test_the_first_command_in_an_empty_folder_is_quick(tmp_path, arguments, names, cpu_s):
    status, imported, took_s = in_an_empty_folder(tmp_path, arguments, names)
    assert (status, imported) == (0, [])
    assert took_s < 3 * cpu_s  # on a machine that is shared; what these seconds are without
    assert not (tmp_path / "cache").exists()  # nothing had to be fitted


def test_what_ships_was_fitted_by_this_code():
    assert is_current(), "formulas that ship are those of other code: `make formulas` fits them again"


@pytest.mark.parametrize(("model", "tp", "platform"), [("llama-3.1-8b", 1, "h200"), ("qwen3-30b-a3b", 2, "h100")])
def test_what_ships_is_what_a_fit_gives(model, tp, platform):
    known = Known(NoPoints("none"), shipped_files())
    machine, operations = stored_machine(known, platform), lower([model], tp, platform=platform).operations
    found = shipped(fitted_key(known, operations, machine, ()))
    assert found is not None, "points that ship are others: `make formulas` fits them again"
    now = Fitted.now(known, operations, machine, ())
    assert found.formulas.keys() == now.formulas.keys()
    for signature, formula in now.formulas.items():
        assert [each.name for each in found.formulas[signature].parameters] == [
            each.name for each in formula.parameters
        ]
        assert found.formulas[signature].held.mape == pytest.approx(formula.held.mape, rel=1e-6)
    assert found.notes == now.notes


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """A database of its own beside what ships, the operations of a model, and a GPU."""
    monkeypatch.setattr(captures, "CACHE", tmp_path / "cache")
    operations = lower(["tiny-llama"], platform="h200").operations[:3]
    with look_into(str(tmp_path / "none.sqlite")) as database:
        yield database, operations, stored_machine(database, "h200")


def never(*_arguments):
    raise AssertionError("fitted again")


def test_others_are_fitted_once_and_what_is_said_of_them_is_said_again(asked, monkeypatch, capsys):
    tell_notes()
    first, said = fit_once(*asked, ()), capsys.readouterr().err
    monkeypatch.setattr(fitted, "fit_missing", never)
    assert fit_once(*asked, ()) == first
    assert capsys.readouterr().err == said
    assert "not measured here" in said or "has no points here" in said


@pytest.mark.parametrize("damage", ["{", '{"formulas": [{}], "notes": []}'])
def test_a_damaged_file_is_written_again(asked, damage):
    first = fit_once(*asked, ())
    (path,) = (captures.CACHE / "formulas").iterdir()
    whole = path.read_text()
    path.write_text(damage)
    assert fit_once(*asked, ()) == first
    assert path.read_text() == whole


def test_a_cache_that_cannot_be_written_costs_time_only(asked, tmp_path):
    (tmp_path / "cache").write_text("in the way")
    assert fit_once(*asked, ())


def test_the_key_is_another_one_for_other_points_operations_formulas_and_machines(asked):
    database, operations, machine = asked
    keys = [
        fitted_key(database, operations, machine, ()),
        fitted_key(database, operations[:2], machine, ()),
        fitted_key(database, operations, replace(machine, torch="0.1"), ()),
        fitted_key(database, operations, machine, ("host_launch",)),
        fitted_key(Known(NoPoints("none"), shipped_files()[:1]), operations, machine, ()),
    ]
    assert len(set(keys)) == len(keys)


def test_points_of_ones_own_count_if_a_gpu_gave_them(asked, tmp_path):
    database, operations, machine = asked
    location, keys = str(tmp_path / "own.sqlite"), [fitted_key(database, operations, machine, ())]
    cpu = Environment.of(platform="cpu", device="EPYC")
    for environment in (cpu, environment_for(operations[0], machine), environment_for(operations[0], machine)):
        with open_database(location, create=True) as own:
            own.add_operation(operations[0].signature, operations[0].target, str(Program((), operations[:1])))
            claim = own.claim(operations[0].signature, environment, Point.of(T=7 + len(keys)))
            assert claim is not None
            own.record_ok(claim, Samples((12.0,)))
        with look_into(location) as both:
            keys.append(fitted_key(both, operations, machine, ()))
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


def test_comments_layout_and_docstrings_are_not_what_code_does(tmp_path, monkeypatch):
    monkeypatch.setattr(digest, "_PACKAGE", tmp_path)

    def after(text):
        (tmp_path / "code.py").write_text(text)
        digest.meaning_digest.cache_clear()
        return digest.meaning_digest("code.py")

    first = after('"""One."""\n\ndef f(x):\n    """Two."""\n    return x + 1\n')
    assert after("def f( x ):  # three\n    return (x +\n        1)\n") == first
    assert after("def f(x):\n    return x + 2\n") != first
    digest.meaning_digest.cache_clear()
