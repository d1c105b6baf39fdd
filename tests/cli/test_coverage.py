"""``dooly coverage`` over .ir files: what models share, as table, JSON and picture."""

import json
from pathlib import Path

import pytest

from dooly.cli import main
from tests.evaluate.test_sharing import text

ARGUMENTS = ("--max-tokens", "64", "--max-requests", "4", "--max-context", "128")


@pytest.fixture
def models(tmp_path, monkeypatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    for name, wide in (("a", 96), ("b", 96), ("c", 128)):
        Path(f"{name}.ir").write_text(text(name, wide))
    return ["a.ir", "b.ir", "c.ir"]


def test_several_models_show_what_they_share(models, capsys):
    assert main(["coverage", *models, "--json", *ARGUMENTS]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["time_from"] == "roofline"
    assert answer["operations_without_formula"] == len(answer["operations"]) == 6
    assert [row["model"] for row in answer["models"]] == ["a", "b", "c"]
    assert [row["time_shared_percent"] for row in answer["models"]] == [100.0, 100.0, 0.0]
    assert [row["adds_operations"] for row in answer["models"]] == [0, 0, 3]
    assert answer["models"][2]["adds_measuring_s"] > 0
    assert answer["sharing"]["operations"] == [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]


def test_tables_and_picture_say_where_the_time_comes_from(models, capsys):
    assert main(["coverage", *models, "--plot", "s.svg", *ARGUMENTS]) == 0
    out = capsys.readouterr().out
    assert "6 distinct operations instead of 9, 0 in the database" in out
    assert "percent of the row's predicted time (roofline)" in out
    assert "Share of predicted time (roofline)" in Path("s.svg").read_text()
    assert main(["coverage", *models, "--by", "operations", *ARGUMENTS]) == 0
    assert "percent of the row's distinct operations that" in capsys.readouterr().out


def test_a_table_of_operations_will_do(models, capsys):
    from dooly.passes.__main__ import main as passes

    assert passes([*models, "-o", "table.ir"]) == 0
    assert main(["coverage", "table.ir", "--json", *ARGUMENTS]) == 0
    assert [row["model"] for row in json.loads(capsys.readouterr().out)["models"]] == ["a", "b", "c"]


def test_every_bundled_architecture_has_a_time(monkeypatch, tmp_path, capsys):
    table = Path(__file__).resolve().parents[2] / "notebooks" / "families.ir"
    monkeypatch.chdir(tmp_path)
    assert main(["coverage", str(table), "--json", *ARGUMENTS]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert len(answer["models"]) >= 12
    assert all(row[index] == 1.0 for index, row in enumerate(answer["sharing"]["time"]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plot", "s.png"], "--plot s.png: expected a file name that ends in .svg"),
        (["--plot", "none/s.svg"], "none/s.svg: cannot write"),
        (["--by", "size"], "'size' is not one of"),
    ],
)
def test_bad_input_is_one_line(models, capsys, arguments, message):
    assert main(["coverage", *models, *arguments, *ARGUMENTS]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
