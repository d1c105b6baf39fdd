"""Points of a file measured again: just those, in a database of their own, none twice."""

from pathlib import Path

import pytest

from dooly.database import Database, Environment, Point, Samples
from dooly.database.exchange import write_parquet
from dooly.ir import Operation, TensorType, parse_expr
from dooly.ir.printer import format_operation
from scripts.measure_points import main


def linear(n: int) -> Operation:
    x, weight, y = (
        TensorType("f32", tuple(parse_expr(str(dim)) for dim in dims)) for dims in (("T", 16), (n, 16), ("T", n))
    )
    return Operation("linear", (x, weight), (y,))


@pytest.mark.engine
def test_the_same_points_are_measured_once(tmp_path: Path, capsys):
    elsewhere = Database("sqlite://")
    for operation in (linear(8), linear(24)):
        elsewhere.add_operation(operation.signature, "linear", format_operation(operation, name=operation.name))
        for tokens in (3, 700):
            claim = elsewhere.claim(operation.signature, Environment.of(device="another"), Point.of(T=tokens))
            assert claim is not None
            elsewhere.record_ok(claim, Samples((1.0,) * 5))
    write_parquet(elsewhere.records(), tmp_path / "points.parquet")
    arguments = [str(tmp_path / "points.parquet"), "--db", str(tmp_path / "again.sqlite")]
    assert main(arguments) == 0
    assert capsys.readouterr().out == "4 points measured, 0 given up, 0 operations left\n"
    taken = {(each.operation.signature, each.measurement.point) for each in Database(arguments[2]).records()}
    assert taken == {(linear(n).signature, Point.of(T=tokens)) for n in (8, 24) for tokens in (3, 700)}
    assert main(arguments) == 0
    assert capsys.readouterr().out.startswith("0 points measured")


def test_a_missing_file_is_one_line(tmp_path: Path, capsys):
    assert main([str(tmp_path / "none.parquet"), "--db", str(tmp_path / "again.sqlite")]) == 2
    assert capsys.readouterr().err.startswith("measure_points: ")
