"""Databases as Parquet files and merged into each other: nothing is lost, nothing measured is replaced."""

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from dooly.batch import HOST_PARTS
from dooly.cli.app import app
from dooly.database import Database, Environment, Point, Samples, Status
from dooly.database.exchange import check, read_parquet, shipped_files, write_parquet
from dooly.errors import DatabaseError
from dooly.ir import Operation, TensorType, parse_expr, parse_program
from dooly.ir.printer import format_operation

HERE, THERE = Environment.of(device="H200", torch="2.11.0"), Environment.of(device="H100", torch="2.11.0")


def linear(n: int) -> Operation:
    def tensor(*dims: object) -> TensorType:
        return TensorType("bf16", tuple(parse_expr(str(dim)) for dim in dims))

    return Operation("linear", (tensor("T", 64), tensor(n, 64)), (tensor("T", n),))


def fill(database: Database, scale: float = 1.0) -> Database:
    for operation in (linear(32), linear(96)):
        database.add_operation(operation.signature, "linear", format_operation(operation, name=operation.name))
        for home in (HERE, THERE):
            for tokens in (1, 8, 64):
                claim = database.claim(operation.signature, home, Point.of(T=tokens))
                assert claim is not None
                times = tuple(scale * tokens * (1.0 + 0.01 * index) for index in range(5))
                database.record_ok(claim, Samples(times, (9.0,), 3, (("power_w", 300.5),), 1980.0, 41.0))
    claim = database.claim(linear(32).signature, HERE, Point.of(T=512))
    assert claim is not None
    database.record_failed(claim, "out of memory")
    return database


@pytest.fixture
def filled(tmp_path: Path) -> Database:
    return fill(Database(tmp_path / "filled.db"))


def test_parquet_gives_back_what_it_was_given(filled: Database, tmp_path: Path):
    records = filled.records()
    assert write_parquet(records, tmp_path / "a.parquet") == len(records) == 13
    assert list(read_parquet(tmp_path / "a.parquet")) == records
    assert check(records) == []


def test_another_database_learns_each_point_once_and_keeps_its_own(filled: Database, tmp_path: Path):
    other = Database(tmp_path / "other.db")
    fill(other, scale=2.0)
    before = other.records()
    assert other.add_records(filled.records()) == 0
    assert other.records() == before
    empty = Database(tmp_path / "empty.db")
    assert empty.add_records(filled.records()) == 13
    assert empty.add_records(filled.records()) == 0
    assert empty.records() == filled.records()


def test_a_failed_point_gives_way_to_a_measured_one(filled: Database, tmp_path: Path):
    (failed,) = [record for record in filled.records() if record.measurement.status is Status.FAILED]
    good = replace(
        failed, measurement=replace(failed.measurement, status=Status.OK, samples=Samples((4.0,)), reason=None)
    )
    assert filled.add_records([good]) == 1
    assert filled.add_records([failed]) == 0
    assert Point.of(T=512) in {m.point for m in filled.points(linear(32).signature, HERE)}


def test_the_check_names_what_is_wrong(filled: Database):
    first, second, *_ = (r for r in filled.records() if r.operation.signature == linear(32).signature)
    strange = replace(
        first, operation=replace(first.operation, text=format_operation(linear(96), name=linear(96).name))
    )
    assert "another version wrote it" in check([strange])[0]
    torn = replace(first, operation=replace(first.operation, text="operation @"))
    assert "does not parse" in check([torn])[0]
    zero = replace(second, measurement=replace(second.measurement, samples=Samples((0.0, 0.0, 1.0))))
    assert "mostly positive" in check([zero])[0]
    disturbed = replace(second, measurement=replace(second.measurement, samples=Samples((-3.0, 1.0, 1.0))))
    assert check([disturbed]) == []


def test_a_file_of_something_else_is_one_clear_line(tmp_path: Path):
    with pytest.raises(DatabaseError, match="cannot be read as Parquet"):
        list(read_parquet(tmp_path / "missing.parquet"))
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "other.parquet")
    with pytest.raises(DatabaseError, match="not a latency database of dooly but a"):
        list(read_parquet(tmp_path / "other.parquet"))


def test_points_to_judge_by_are_sound():
    paths = list((shipped_files()[0].parent / "evaluation").glob("*.parquet"))
    assert len(paths) >= 5
    for path in paths:
        assert check(read_parquet(path)) == []


def test_shipped_data_is_sound_and_of_this_version():
    """Every operation parses to the signature it is stored under; raw samples, clocks and environments are there."""
    for path in shipped_files():
        records = list(read_parquet(path))
        assert check(records) == []
        taken = [record for record in records if record.measurement.status is Status.OK]
        of_the_host = [record for record in taken if record.operation.target in HOST_PARTS]
        assert all(record.environment.get("processor") for record in of_the_host)
        taken = [record for record in taken if record.operation.target not in HOST_PARTS]
        assert len(taken) > 1000
        kinds = {"attention", "linear", "mla_attention", "moe", "region", "scaled_linear"}
        kinds |= {"all_gather", "all_reduce", "recv", "reduce_scatter", "send"}
        assert {record.operation.target for record in taken} == kinds
        assert all(record.environment.get("driver") for record in taken)
        assert all(record.measurement.samples.clock_mhz for record in taken)
        for text in {record.operation.text for record in taken}:
            assert len(parse_program(text).operations) == 1


def test_the_command_line_exports_imports_merges_checks_and_compares(filled: Database, tmp_path: Path):
    def dooly(*arguments: object) -> str:
        result = CliRunner().invoke(app, ["db", *map(str, arguments)])
        assert result.exit_code == 0, result.output
        return result.output

    source, copy, third = tmp_path / "filled.db", tmp_path / "copy.db", tmp_path / "third.db"
    assert "13 points" in dooly("export", tmp_path / "a.parquet", "--db", source)
    assert "13 new points" in dooly("import", tmp_path / "a.parquet", "--db", copy)
    assert "0 new points" in dooly("merge", source, "--db", copy)
    assert "13 new points" in dooly("merge", tmp_path / "a.parquet", copy, "--db", third)
    assert "13 points, 0 problems" in dooly("check", third)
    assert "12 common points" in dooly("diff", source, third)
