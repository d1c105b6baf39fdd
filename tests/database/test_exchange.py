"""Databases as Parquet files and merged into each other: nothing is lost, nothing measured is replaced."""

import sqlite3
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from dooly.cli.app import app
from dooly.database import Database, Environment, Point, Samples, Status
from dooly.database.exchange import read_parquet, shipped_files, write_parquet
from dooly.database.soundness import problems
from dooly.errors import DatabaseError
from dooly.host import is_host_part
from dooly.ir import Operation, TensorType, parse_expr, parse_program
from dooly.ir.printer import format_operation
from dooly.workspace.store import records_of

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
    assert problems(records) == []


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
    assert "another version wrote it" in problems([strange])[0]
    torn = replace(first, operation=replace(first.operation, text="operation @"))
    assert "does not parse" in problems([torn])[0]
    zero = replace(second, measurement=replace(second.measurement, samples=Samples((0.0, 0.0, 1.0))))
    assert "mostly positive" in problems([zero])[0]
    disturbed = replace(second, measurement=replace(second.measurement, samples=Samples((-3.0, 1.0, 1.0))))
    assert problems([disturbed]) == []


def test_a_file_of_something_else_is_one_clear_line(tmp_path: Path):
    with pytest.raises(DatabaseError, match="no such file"):
        list(read_parquet(tmp_path / "missing.parquet"))
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "other.parquet")
    with pytest.raises(DatabaseError, match="not a latency database of dooly but a"):
        list(read_parquet(tmp_path / "other.parquet"))


def test_points_to_judge_by_are_sound():
    paths = list((shipped_files()[0].parent / "evaluation").glob("*.parquet"))
    assert len(paths) >= 5
    for path in paths:
        assert problems(read_parquet(path)) == []


def test_shipped_data_is_sound_and_of_this_version():
    """Every operation parses to the signature it is stored under; raw samples, clocks and environments are there."""
    for path in shipped_files():
        records = list(read_parquet(path))
        assert problems(records) == []
        taken = [record for record in records if record.measurement.status is Status.OK]
        of_the_host = [record for record in taken if is_host_part(record.operation.target)]
        assert all(record.environment.get("processor") for record in of_the_host)
        taken = [record for record in taken if not is_host_part(record.operation.target)]
        assert len(taken) > 1000
        kinds = {"attention", "linear", "mla_attention", "moe", "region", "scaled_linear"}
        kinds |= {"all_gather", "all_reduce", "recv", "reduce_scatter", "send"}
        assert {record.operation.target for record in taken} - {"packed_linear"} == kinds  # that of the H200 alone
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


def broken(filled: Database, tmp_path: Path, **cells: object) -> Path:
    """A Parquet file whose first row has other cells."""
    write_parquet(filled.records(), tmp_path / "good.parquet")
    frame = pl.read_parquet(tmp_path / "good.parquet")
    rows = frame.to_dicts()
    pl.DataFrame([rows[0] | cells, *rows[1:]], schema=frame.schema).write_parquet(tmp_path / "bad.parquet")
    return tmp_path / "bad.parquet"


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"environment": "[1,2]"}, r"row 1 is damaged \(an environment must be a JSON object, found \[1,2\]\)"),
        ({"environment": '{"a":[1]}'}, "the environment's a must be text, a number or true or false"),
        ({"environment": '{"a":NaN}'}, "the environment's a must be text, a number"),
        ({"environment": None}, "row 1 is damaged"),
        ({"aside": "[1]"}, "what was noted aside must be a JSON object"),
        ({"aside": '{"a":[1]}'}, "values aside must be finite numbers"),
        ({"samples_us": [None]}, r"samples must be finite numbers, found \(None,\)"),
        ({"samples_us": None}, "row 1 is damaged"),
        ({"samples_us": [float("nan")] * 3}, "samples must be finite numbers"),
        ({"samples_us": [1.0, float("inf")]}, "samples must be finite numbers"),
        ({"samples_us": []}, "nothing is added: .* at T=1: measured, but without samples that are mostly positive"),
        ({"warmups_us": [float("-inf")]}, "warm-ups must be finite"),
        ({"clock_mhz": float("nan")}, "clock and temperature must be finite"),
        ({"loops": 0}, "0 loops; expected a whole number from 1"),
        ({"loops": None}, "None loops"),
        ({"started_s": None}, "times must be finite"),
        ({"finished_s": 1.0}, "it did not end after it began"),
        ({"status": "claimed"}, "nothing is added: .*: claimed by a process that measures it, not measured"),
        ({"status": "great"}, "'great' is not a valid Status"),
        ({"point": '{"T":1e400}'}, "row 1 is damaged"),
        ({"point": '{"T":99999999999999999999}'}, "a size is above"),
        ({"point": '{"requests":[[1,2,null]]}'}, "row 1 is damaged"),
        ({"signature": None}, "must be texts, found None"),
        ({"operation": "hello"}, "nothing is added: .*: the text of this operation does not parse: line 1"),
    ],
)
def test_what_is_imported_is_checked_as_what_was_measured(
    filled: Database, tmp_path: Path, cells: dict[str, object], message: str
):
    target = Database(tmp_path / "target.db")
    with pytest.raises(DatabaseError, match=message) as caught:
        target.add_records(read_parquet(broken(filled, tmp_path, **cells)))
    assert "\n" not in str(caught.value)
    assert target.records() == []


def test_a_damaged_parquet_file_is_one_line(filled: Database, tmp_path: Path):
    write_parquet(filled.records(), tmp_path / "a.parquet")
    content = (tmp_path / "a.parquet").read_bytes()
    for at in (4, len(content) // 2, len(content) - 8):
        (tmp_path / "b.parquet").write_bytes(content[:at] + bytes(each ^ 255 for each in content[at:]))
        with pytest.raises(DatabaseError, match=r"b\.parquet: cannot be read as Parquet") as caught:
            list(read_parquet(tmp_path / "b.parquet"))
        assert "\n" not in str(caught.value)


def test_samples_that_are_not_sound_make_a_failed_point(filled: Database):
    claim = filled.claim(linear(32).signature, HERE, Point.of(T=2))
    assert claim is not None
    filled.record_ok(claim, Samples((-1.0, -2.0, 3.0)))
    (found,) = filled.points(linear(32).signature, HERE, status=Status.FAILED)[-1:]
    assert (found.point, found.reason) == (Point.of(T=2), "measured, but without samples that are mostly positive")


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE points SET started_s = 'soon'", "a stored point of .* is damaged .times must be finite numbers"),
        ("UPDATE points SET samples_us = NULL", "is damaged"),
        ("UPDATE points SET samples_us = '[NaN]'", "samples must be finite numbers"),
        ("UPDATE points SET samples_us = '[\"a\"]'", "samples must be finite numbers"),
        ("UPDATE points SET loops = 'x'", "'x' loops"),
        ("UPDATE points SET status = 'great'", "'great' is not a valid Status"),
        ("UPDATE points SET point = x'ff00' WHERE id = 2", "is damaged"),
        (
            "UPDATE points SET finished_s = 0",
            "it did not end after it began and 11 more; `dooly db check` lists",
        ),
        ("UPDATE operations SET text = x'ff00'", "a stored operation is damaged"),
        ("UPDATE operations SET text = 'hello'", "nothing is added: .*does not parse"),
        ("UPDATE environments SET facts = '[1]'", "an environment must be a JSON object"),
        ("UPDATE environments SET facts = cast(x'7bff7d' as text)", "decode to UTF-8"),
        ("DROP TABLE points", "without the tables points; restore the file from a copy"),
        ("DROP TABLE meta", "a database, but not one of dooly"),
        ("ALTER TABLE points RENAME COLUMN samples_us TO other", "no such column: points.samples_us"),
        ("UPDATE meta SET value = '²' WHERE name = 'schema_version'", "a database, but not one of dooly"),
        ("UPDATE meta SET value = '99' WHERE name = 'schema_version'", "written by a newer dooly"),
        ("UPDATE meta SET value = x'00' WHERE name = 'schema_version'", "a database, but not one of dooly"),
    ],
)
def test_what_another_database_holds_is_checked_too(filled: Database, tmp_path: Path, statement: str, message: str):
    filled.close()
    with sqlite3.connect(tmp_path / "filled.db") as connection:
        connection.execute(statement)
    connection.close()
    target = Database(tmp_path / "target.db")
    with pytest.raises(DatabaseError, match=message) as caught:
        target.add_records(records_of(str(tmp_path / "filled.db")))
    assert "\n" not in str(caught.value)
    assert target.records() == []
