"""The ledger of what ships, without an engine; and the errors of formulas of a fixed grid beside those of a sweep."""

import json
from pathlib import Path

import pytest

from dooly.cli import main
from dooly.database import Measurement, Point, Samples, Status
from dooly.evaluate.grid_errors import grid_errors
from dooly.ir import Operation, TensorType, parse_expr
from dooly.report import Column, Table, markdown
from dooly.workspace.shipped import DATA, MEASURED, measured_models

PLATFORMS = sorted(path.stem for path in DATA.glob("*.parquet"))


def tensor(*dims: object) -> TensorType:
    return TensorType("bf16", tuple(parse_expr(str(dim)) for dim in dims))


LINEAR = Operation("linear", (tensor("T", 4096), tensor(4096, 4096)), (tensor("T", 4096),))


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_ledger_of_what_ships_adds_up(platform: str, capsys):
    assert main(["ledger", "--platform", platform, "--no-errors", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    models, total = document["models"], document["total"]
    assert [(row["model"], row["tp"]) for row in models] == list(MEASURED)
    assert total["grid_s"] == pytest.approx(sum(row["measured_s"] + row["extrapolated_s"] for row in models))
    assert total["sweep_s"] == pytest.approx(sum(row["sweep_s"] for row in models))
    assert total["sweep_s"] < total["deduplicated_s"] < total["grid_s"]
    assert total["saved_by_sweep_percent"] > 90
    assert all(row["operations"] >= row["new"] > 0 for row in models)


def test_one_backend_is_a_smaller_ledger(capsys):
    totals: list[float] = []
    for more in ([], ["--backend", "FLASH_ATTN"]):
        assert main(["ledger", "--no-errors", "--json", *more]) == 0
        totals.append(json.loads(capsys.readouterr().out)["total"]["grid_s"])
    assert totals[1] < totals[0]


def test_people_get_tables(capsys):
    assert main(["ledger", "--no-errors"]) == 0
    printed = capsys.readouterr().out
    assert "12 models in this order" in printed
    assert "seconds of a counted point" in printed


def test_a_gpu_that_was_not_measured_is_one_clear_line(capsys):
    assert main(["ledger", "--platform", "a100"]) == 2
    assert "--platform a100: no measurements of it ship with dooly; expected one of" in capsys.readouterr().err


def test_the_measured_models_are_a_table_of_operations_with_uses():
    program = measured_models()
    assert program.graphs == ()
    assert {use.model for each in program.operations for use in each.uses} == {name for name, _ in MEASURED}
    assert Path(DATA / "models.ir").stat().st_size < 200_000


def points(sizes: range | tuple[int, ...]) -> list[Measurement]:
    return [
        Measurement(LINEAR.signature, "e", Point.of(T=n), Status.OK, None, Samples((10.0 + 0.5 * n,) * 5))
        for n in sizes
    ]


def test_both_ways_are_judged_by_the_same_points():
    grid = {LINEAR.signature: points(range(8, 1600, 8))}
    sweep = {LINEAR.signature: points((1, 4, 16, 64, 256, 1024, 4096))}
    held_out = {LINEAR.signature: points((33, 555, 3000))}
    row, everything, within = grid_errors([LINEAR], sweep, grid, held_out)
    assert (row["operation"], row["held_out_points"], row["grid_points"], row["sweep_points"]) == (
        LINEAR.name,
        3,
        199,
        7,
    )
    assert max(row["grid_mean_percent"], row["sweep_mean_percent"], row["sweep_on_grid_percent"]) < 5.0
    assert (everything["held_out_points"], everything["outside_grid"]) == (3, 1)
    assert (within["held_out_points"], within["outside_grid"]) == (2, 0)


def test_a_grid_of_which_little_was_measured_is_not_judged():
    few = {LINEAR.signature: points((1, 8, 64))}
    assert grid_errors([LINEAR], few, few, few) == []


def test_a_table_in_a_page():
    table = Table(
        "title", (Column("a", "A"), Column("b", "B (s)", ".1f")), [{"a": "x", "b": 1.25}, {"a": "y", "b": None}]
    )
    assert markdown(table) == "title\n\n| A | B (s) |\n| --- | ---: |\n| x | 1.2 |\n| y | - |\n"
