"""Commands that need only a database: fit, formulas, db."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from dooly.cli import main
from dooly.database import Database, Environment, Point, Samples
from dooly.ir import evaluate, parse_program
from dooly.ir.printer import format_operation
from dooly.passes import PIPELINE, run

ROOT = Path(__file__).resolve().parents[2]
HERE = Environment.of(device="a cpu", torch="2.13.0", threads=2)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> str:
    """A database in which every GEMM of docs/mlp.ir takes 5 us plus what 1 TFLOP/s and 50 GB/s make of it."""
    path = tmp_path_factory.mktemp("stored") / "latency.sqlite"
    program = run(parse_program((ROOT / "docs" / "mlp.ir").read_text()), PIPELINE)
    database = Database(path)
    for operation in program.operations:
        if operation.target != "linear":
            continue
        text = format_operation(replace(operation, uses=(), status=""), name=operation.name)
        database.add_operation(operation.signature, operation.target, text)
        for tokens in (1, 4, 16, 32, 64, 128, 256, 512, 1024):
            flops, bytes_ = (evaluate(e, {"T": tokens}) for e in (operation.flops, operation.bytes))
            latency_us = float(5 + max(flops / 1e6, bytes_ / 50e3))
            claim = database.claim(operation.signature, HERE, Point.of(T=tokens))
            assert claim is not None
            database.record_ok(claim, Samples((latency_us,) * 5))
    database.close()
    assert main(["fit", "--db", str(path)]) == 0
    return str(path)


def output(capsys, *arguments: str) -> str:
    capsys.readouterr()
    assert main(arguments) == 0
    return capsys.readouterr().out


def test_fit_finds_the_law_that_the_points_obey(place, capsys):
    rows = json.loads(output(capsys, "fit", "--db", place, "--json"))
    assert len(rows) == 2
    for row in rows:
        assert row["points"] == 9
        assert row["held_out_error_percent"] < 5
        assert row["environment"] == HERE.key


def test_every_number_of_a_table_has_its_unit(place, capsys):
    header = output(capsys, "fit", "--db", place).splitlines()[1]
    for title in ("held-out error (%)", "noise (%)", "worst (%)"):
        assert title in header
    assert "cost (s)" in output(capsys, "db", "info", "--db", place)


def test_formulas_as_text_latex_and_json(place, capsys):
    text = output(capsys, "formulas", "--db", place).splitlines()
    assert len(text) == 2
    assert all("t_us = " in line and "TFLOP/s" in line and "GB/s" in line for line in text)
    assert output(capsys, "formulas", "--db", place, "--latex").count(r"t_{\mathrm{us}}") == 2
    for formula in json.loads(output(capsys, "formulas", "--db", place, "--json")):
        peak = next(p["value"] for p in formula["parameters"] if p["name"] == "peak")
        assert math.isclose(peak, 1.0, rel_tol=0.1)


def test_formulas_say_what_the_points_reach_and_print_as_sympy(place, capsys):
    assert output(capsys, "formulas", "--db", place).count("reaches 1 TFLOP/s") >= 1
    for line in output(capsys, "formulas", "--db", place, "--sympy").splitlines():
        assert "Max(" in line
        assert "peak = " in line
        assert line.count(" TFLOP/s") == line.count(" GB/s") == 1


def test_one_formula_as_a_picture(place, capsys, tmp_path):
    picture = tmp_path / "one.svg"
    name = output(capsys, "formulas", "--db", place).partition(":")[0]
    output(capsys, "formulas", name, "--db", place, "--plot", str(picture))
    assert picture.read_text().count("<circle") == 9
    assert main(["formulas", "--db", place, "--plot", str(picture)]) == 2
    assert "--plot shows one operation, 2 match" in capsys.readouterr().err
    assert main(["formulas", "--db", place, "--sympy", "--latex"]) == 2
    assert "choose one" in capsys.readouterr().err


def test_formulas_of_one_operation(place, capsys):
    name = output(capsys, "formulas", "--db", place).partition(":")[0]
    (line,) = output(capsys, "formulas", name, "--db", place).splitlines()
    assert line.startswith(f"{name}:")
    assert main(["formulas", "attention", "--db", place]) == 2
    assert "no formula of 'attention'" in capsys.readouterr().err


def test_info_and_environments(place, capsys):
    rows = json.loads(output(capsys, "db", "info", "--db", place, "--json"))
    assert [(row["target"], row["status"], row["points"]) for row in rows] == [("linear", "ok", 9)] * 2
    (environment,) = json.loads(output(capsys, "db", "environments", "--db", place, "--json"))
    assert environment == {"environment": HERE.key, "device": "a cpu", "threads": 2, "torch": "2.13.0"}
    assert output(capsys, "db", "environments", "--db", place).startswith(HERE.key)


def test_a_database_without_points_has_nothing_to_fit(tmp_path, capsys):
    Database(tmp_path / "new.sqlite").close()
    assert main(["fit", "--db", str(tmp_path / "new.sqlite")]) == 2
    assert "no measured points to fit; run `dooly profile MODEL` first" in capsys.readouterr().err
