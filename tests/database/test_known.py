"""A database and Parquet files seen as one: the database first, nothing twice."""

import time
from dataclasses import replace

import pytest

from dooly.database import Database, Environment, Known, Measurement, Point, Record, Samples, Status, StoredOperation
from dooly.database.exchange import read_frame, read_parquet, shipped_files, write_parquet
from dooly.errors import DatabaseError

HOME = Environment.of(platform="h200", device="NVIDIA H200", mode="graph")
AWAY = Environment.of(platform="h200", device="NVIDIA H200", mode="eager")
OPERATION = StoredOperation("linear_00000001", "linear", "pseudo operation of a test")


def record(tokens, us, home=HOME, operation=OPERATION, status=Status.OK):
    samples = Samples((us,) if status is Status.OK else ())
    reason = None if status is Status.OK else "out of memory"
    point = Point.of(T=tokens)
    measured = Measurement(operation.signature, home.key, point, status, reason, samples, 1.0, 3.0)
    return Record(operation, home, measured)


@pytest.fixture
def known(tmp_path):
    """A database with points at 1, 2 (failed) and 8 tokens, and a file with points at 1, 2 and 4 tokens."""
    database = Database(tmp_path / "own.sqlite")
    database.add_records([record(8, 80.0), record(1, 10.0), record(2, 0.0, status=Status.FAILED)])
    shipped = [record(1, 11.0), record(2, 21.0), record(4, 41.0), record(4, 42.0, AWAY)]
    shipped.append(record(1, 5.0, operation=replace(OPERATION, signature="attention_2", target="attention")))
    write_parquet(shipped, tmp_path / "shipped.parquet")
    yield Known(database, [tmp_path / "shipped.parquet"])
    database.close()


def latencies(points):
    return [(each.point.axes["T"], each.latency_us) for each in points]


def test_points_measured_here_come_first_and_no_point_is_there_twice(known):
    assert latencies(known.points("linear_00000001", HOME)) == [(8, 80.0), (1, 10.0), (2, 21.0), (4, 41.0)]
    assert latencies(known.points("linear_00000001", AWAY)) == [(4, 42.0)]
    assert known.points("linear_00000001", Environment.of(platform="cpu")) == []


def test_what_failed_here_and_was_measured_elsewhere_is_measured(known):
    every = known.points("linear_00000001", HOME, status=None)
    assert sorted((each.point.axes["T"], each.status) for each in every) == [(n, Status.OK) for n in (1, 2, 4, 8)]


def test_operations_environments_ranges_and_counts_are_of_both(known):
    assert [each.signature for each in known.operations()] == ["attention_2", "linear_00000001"]
    assert known.environments() == [HOME, AWAY]
    assert [(other, sorted(how)) for other, how in known.near_environments(HOME)] == [(AWAY, ["mode"])]
    assert known.covered_domain("linear_00000001", HOME).ranges == {"T": (1, 8)}
    counts = {(row.environment, row.signature, row.status): (row.points, row.cost_s) for row in known.summary()}
    assert counts[HOME.key, "linear_00000001", Status.OK] == (4, 8.0)
    assert counts[AWAY.key, "linear_00000001", Status.OK] == (1, 2.0)


def test_a_formula_is_the_databases(tmp_path, known):
    database = Database(tmp_path / "own.sqlite")
    database.store_formula("linear_00000001", HOME, {"t": 1})
    database.close()
    assert known.formula("linear_00000001", HOME) == {"t": 1}
    assert known.formula("linear_00000001", AWAY) is None


@pytest.mark.parametrize("imported", [False, True])
def test_what_ships_is_seen_as_if_it_had_been_imported(imported):
    """Equal in every point with what an import stores, whether the database has imported it already or not."""
    whole, empty = Database("sqlite://"), Database("sqlite://")
    records = [each for path in shipped_files() for each in read_parquet(path)][::7]
    whole.add_records(records)
    known = Known(whole if imported else empty, shipped_files())
    assert {each.signature for each in whole.operations()} <= {each.signature for each in known.operations()}
    assert set(whole.environments()) <= set(known.environments())
    assert sum(row.points for row in known.summary()) == sum(read_frame(path).height for path in shipped_files())
    for each in records[::50]:
        points = known.points(each.operation.signature, each.environment, status=None)
        stored = whole.points(each.operation.signature, each.environment, status=None)
        assert len({point.point for point in points}) == len(points)
        assert [point for point in points if point in stored] == stored


def test_what_ships_is_read_in_less_than_a_second_of_processor_time():
    began = time.process_time()
    known = Known(Database("sqlite://"), shipped_files())
    for operation in known.operations()[:50]:
        for home in known.environments():
            known.points(operation.signature, home)
    assert time.process_time() - began < 1.0  # 9.7 s when all points were inserted into a database first


def test_a_file_of_something_else_is_one_clear_line(tmp_path):
    (tmp_path / "other.parquet").write_bytes(b"no Parquet")
    with pytest.raises(DatabaseError, match=r"other\.parquet: cannot be read as Parquet"):
        Known(Database("sqlite://"), [tmp_path / "other.parquet"])
