import json
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from dooly.database import Database, Environment, Point, Samples, Status
from dooly.errors import DatabaseError

CPU = Environment.of(device="a cpu", torch="2.13.0", threads=2)
TEXT = "operation @linear_1 {target = linear} over (T)"


@pytest.fixture
def database(tmp_path: Path):
    opened = Database(tmp_path / "latency.db")
    opened.add_operation("sig", "linear", TEXT)
    yield opened
    opened.close()


def measure(database: Database, *points: Point, values: tuple[float, ...] = (1.0, 2.0, 3.0)) -> None:
    for point in points:
        claim = database.claim("sig", CPU, point)
        assert claim is not None
        assert database.record_ok(claim, Samples(values))


def test_a_recorded_point_is_read_back_with_its_raw_samples(database: Database):
    claim = database.claim("sig", CPU, Point.of(T=8))
    assert claim is not None
    samples = Samples((4.0, 2.0, 3.0), (9.0,), 7, (("metadata_us", 1.5),), 2400.0, 60.0)
    database.record_ok(claim, samples)
    (measurement,) = database.points("sig", CPU)
    assert measurement.samples == samples
    assert measurement.median_us == 3.0
    assert measurement.point == Point.of(T=8)
    assert measurement.cost_s >= 0.0


def test_disturbed_samples_do_not_move_the_latency(database: Database):
    measure(database, Point.of(T=8), values=(10.0, 10.2, 9.9, 10.1, 12000.0, 12001.0, 11999.0, 12002.0))
    (measurement,) = database.points("sig", CPU)
    assert measurement.latency_us == pytest.approx(10.05)
    assert measurement.median_us > 1000.0
    assert len(measurement.samples.values_us) == 8


def test_a_measured_point_cannot_be_claimed_again(database: Database):
    measure(database, Point.of(T=8))
    assert database.claim("sig", CPU, Point.of(T=8)) is None
    assert database.claim("sig", CPU, Point.of(T=8), retry_failed=True) is None
    assert database.claim("sig", CPU, Point.of(T=9)) is not None


def test_the_claim_of_a_living_process_is_respected(database: Database):
    assert database.claim("sig", CPU, Point.of(T=8)) is not None
    assert database.claim("sig", CPU, Point.of(T=8)) is None


def test_a_released_claim_is_free(database: Database):
    claim = database.claim("sig", CPU, Point.of(T=8))
    assert claim is not None
    database.release(claim)
    assert database.points("sig", CPU, status=None) == []
    assert database.claim("sig", CPU, Point.of(T=8)) is not None


def test_failed_is_a_status_and_not_done(database: Database):
    claim = database.claim("sig", CPU, Point.of(T=8))
    assert claim is not None
    database.record_failed(claim, "out of memory")
    assert database.points("sig", CPU) == []
    (failed,) = database.points("sig", CPU, status=Status.FAILED)
    assert failed.reason == "out of memory"
    with pytest.raises(ValueError, match="is failed, it has no latency"):
        _ = failed.median_us
    assert database.claim("sig", CPU, Point.of(T=8)) is None
    again = database.claim("sig", CPU, Point.of(T=8), retry_failed=True)
    assert again is not None
    assert database.record_ok(again, Samples((1.0,)))
    assert len(database.points("sig", CPU)) == 1


def test_environments_are_never_mixed_and_near_ones_are_listed(database: Database):
    measure(database, Point.of(T=8))
    other = Environment.of(device="a cpu", torch="2.14.0", threads=2)
    assert database.points("sig", other) == []
    assert database.covered_domain("sig", other).points == 0
    assert database.near_environments(other) == [(CPU, {"torch": ("2.14.0", "2.13.0")})]
    assert database.near_environments(CPU) == []


def test_environment_text_is_canonical():
    assert Environment.of(b=1, a="x").key == Environment.of(a="x", b=1).key
    assert Environment.from_json(CPU.json) == CPU
    assert Environment.of(a=1).key != Environment.of(a="1").key
    with pytest.raises(ValueError, match="sorted, distinct"):
        Environment((("b", 1), ("a", 2)))


def test_covered_domain_spans_what_was_measured(database: Database):
    measure(database, Point.of(T=8), Point.of(T=64), Point.of(T=16))
    domain = database.covered_domain("sig", CPU)
    assert domain.points == 3
    assert domain.ranges == {"T": (8, 64)}
    assert domain.covers({"T": 64})
    assert not domain.covers({"T": 65})
    assert not domain.covers({"A": 8})


def test_points_of_requests_are_canonical_and_have_axes(database: Database):
    point = Point.of_requests([(1, 30), (5, 0), (1, 30)])
    assert point == Point.of_requests([(5, 0), (1, 30), (1, 30)])
    assert Point.from_json(point.json) == point
    assert json.loads(point.json) == {"requests": [[1, 30, 2], [5, 0, 1]]}
    prefill = {"Tp": 5, "Sp": 5, "Pp": 15}
    assert point.axes == {"T": 7, "R": 3, "S": 67, "P": 31 + 31 + 15, "C": 31, **prefill}
    assert point.batch == ((1, 30), (1, 30), (5, 0))
    measure(database, point)
    assert database.covered_domain("sig", CPU).ranges["S"] == (67, 67)


@pytest.mark.parametrize("make", [lambda: Point(), lambda: Point.of(T=-1), lambda: Point.of_requests([(0, 3)])])
def test_a_senseless_point_cannot_be_built(make):
    with pytest.raises(ValueError):
        make()


def test_one_signature_has_one_text(database: Database):
    database.add_operation("sig", "linear", TEXT)
    with pytest.raises(DatabaseError, match="another operation text"):
        database.add_operation("sig", "linear", TEXT + " changed")
    with pytest.raises(DatabaseError, match="not stored"):
        database.claim("unknown", CPU, Point.of(T=1))


def test_formulas_are_stored_per_environment(database: Database):
    assert database.formula("sig", CPU) is None
    database.store_formula("sig", CPU, {"a": 1.0})
    database.store_formula("sig", CPU, {"a": 2.0})
    assert database.formula("sig", CPU) == {"a": 2.0}
    assert database.formula("sig", Environment.of(device="b")) is None


def test_summary_counts_points_and_cost(database: Database):
    measure(database, Point.of(T=8), Point.of(T=9))
    (row,) = database.summary()
    assert (row.environment, row.signature, row.status, row.points) == (CPU.key, "sig", Status.OK, 2)
    assert row.cost_s >= 0.0


# -- several processes ---------------------------------------------------------------------------------------------


def _measure_all(path: str, name: str, start, results) -> None:
    database = Database(path)
    start.wait()
    taken = []
    for tokens in range(1, 41):
        claim = database.claim("sig", CPU, Point.of(T=tokens))
        if claim is not None:
            assert database.record_ok(claim, Samples((float(tokens),)))
            taken.append(tokens)
    results.put((name, taken))


def test_two_processes_never_measure_the_same_point(database: Database):
    context = multiprocessing.get_context("spawn")
    start, results = context.Event(), context.Queue()
    workers = [
        context.Process(target=_measure_all, args=(database.place, name, start, results)) for name in ("one", "two")
    ]
    for worker in workers:
        worker.start()
    start.set()
    taken = dict(results.get(timeout=60) for _ in workers)
    for worker in workers:
        worker.join(timeout=60)
        assert worker.exitcode == 0
    assert sorted(taken["one"] + taken["two"]) == list(range(1, 41))
    assert len(database.points("sig", CPU)) == 40


KILLED = """
    import sys, time
    from dooly.database import Database, Environment, Point, Samples
    database = Database(sys.argv[1])
    environment = Environment.from_json(sys.argv[2])
    for tokens in range(1, 1000):
        claim = database.claim("sig", environment, Point.of(T=tokens))
        if claim is None:
            continue
        time.sleep(0.02)
        database.record_ok(claim, Samples((1.0,)))
        print(tokens, flush=True)
"""


def test_kill_9_loses_at_most_the_point_in_hand(database: Database):
    arguments = [sys.executable, "-c", textwrap.dedent(KILLED), database.place, CPU.json]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(5):
        reported = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    rest = process.stdout.read()
    process.stdout.close()
    process.wait()
    reported = int(rest.split()[-1]) if rest.split() else reported
    kept = {measurement.point.axes["T"] for measurement in database.points("sig", CPU)}
    assert kept >= set(range(1, reported + 1))
    left = database.points("sig", CPU, status=Status.CLAIMED)
    assert len(left) <= 1
    for measurement in left:
        claim = database.claim("sig", CPU, measurement.point)
        assert claim is not None, "the claim of a dead process must be taken over"
        assert database.record_ok(claim, Samples((2.0,)))


def test_a_lost_claim_cannot_overwrite(database: Database):
    claim = database.claim("sig", CPU, Point.of(T=8))
    assert claim is not None
    with sqlite3.connect(database.place) as other:
        other.execute("UPDATE points SET owner = '{}'")
    other.close()
    assert not database.record_ok(claim, Samples((1.0,)))
    assert database.points("sig", CPU) == []


def test_a_claim_of_another_host_lapses_with_its_lease(database: Database):
    assert database.claim("sig", CPU, Point.of(T=8)) is not None
    away = json.dumps({"host": "elsewhere", "boot": "b", "pid": os.getpid(), "start": "1"}, sort_keys=True)
    with sqlite3.connect(database.place) as other:
        other.execute("UPDATE points SET owner = ?", (away,))
    assert database.claim("sig", CPU, Point.of(T=8)) is None
    with other:
        other.execute("UPDATE points SET started_s = ?", (time.time() - 7200.0,))
    other.close()
    assert database.claim("sig", CPU, Point.of(T=8)) is not None


def test_a_damaged_claim_is_one_clear_line(database: Database):
    assert database.claim("sig", CPU, Point.of(T=8)) is not None
    with sqlite3.connect(database.place) as other:
        other.execute("UPDATE points SET owner = '{}'")
    other.close()
    with pytest.raises(DatabaseError, match="the claim of a point of sig is damaged"):
        database.claim("sig", CPU, Point.of(T=8))


# -- what can be wrong with a file ---------------------------------------------------------------------------------


def test_a_file_that_is_no_database(tmp_path: Path):
    path = tmp_path / "notes.txt"
    path.write_text("these are notes, and more than a hundred bytes of them, so that it is no empty file\n" * 20)
    with pytest.raises(DatabaseError, match=r"notes\.txt: not an SQLite database; name another file"):
        Database(path)


def test_a_foreign_database_is_left_alone(tmp_path: Path):
    path = tmp_path / "foreign.db"
    with sqlite3.connect(path) as foreign:
        foreign.execute("CREATE TABLE songs (title)")
        foreign.execute("CREATE TABLE meta (key, value)")
    foreign.close()
    before = path.read_bytes()
    with pytest.raises(DatabaseError, match=r"not one of dooly \(it holds meta, songs\)"):
        Database(path)
    assert path.read_bytes() == before


def test_a_newer_schema_is_refused(database: Database):
    with sqlite3.connect(database.place) as other:
        other.execute("UPDATE meta SET value = '99' WHERE name = 'schema_version'")
    other.close()
    with pytest.raises(DatabaseError, match=r"newer dooly \(schema 99"):
        Database(database.place)


@pytest.mark.parametrize("damage", ["[]", "{", '{"T": "x"}', '{"requests": [[1]]}', "7"])
def test_damaged_rows_are_one_clear_line(database: Database, damage: str):
    measure(database, Point.of(T=8))
    with sqlite3.connect(database.place) as other:
        other.execute("UPDATE points SET point = ?", (damage,))
    other.close()
    with pytest.raises(DatabaseError, match="a stored point of sig is damaged"):
        database.points("sig", CPU)


def test_a_mark_without_a_version_is_no_database_of_ours(database: Database):
    with sqlite3.connect(database.place) as other:
        other.execute("UPDATE meta SET value = 'x' WHERE name = 'schema_version'")
    other.close()
    with pytest.raises(DatabaseError, match="not one of dooly"):
        Database(database.place)


def test_missing_directory_missing_file_and_directory(tmp_path: Path):
    with pytest.raises(DatabaseError, match="does not exist"):
        Database(tmp_path / "nowhere" / "a.db")
    with pytest.raises(DatabaseError, match="no such database"):
        Database(tmp_path / "a.db", create=False)
    assert not (tmp_path / "a.db").exists()
    with pytest.raises(DatabaseError, match="is a directory"):
        Database(tmp_path)


@pytest.mark.parametrize("url", ["postgresql+nodriver://host/name", "oracle42://x", "://"])
def test_a_bad_url(url: str):
    with pytest.raises(DatabaseError, match=r"no driver for|not a database URL"):
        Database(url)


def test_a_lock_held_by_another_process(database: Database):
    other = sqlite3.connect(database.place, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    impatient = Database(database.place, lock_timeout_s=0.2)
    with pytest.raises(DatabaseError, match="locked by another process"):
        impatient.claim("sig", CPU, Point.of(T=8))
    other.execute("ROLLBACK")
    other.close()
    impatient.close()
    assert database.claim("sig", CPU, Point.of(T=8)) is not None


def test_a_short_lock_is_waited_for(database: Database):
    other = sqlite3.connect(database.place, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.3, lambda: (other.execute("ROLLBACK"), other.close()))
    timer.start()
    assert database.claim("sig", CPU, Point.of(T=8)) is not None
    timer.join()


def test_a_read_only_database_can_be_read_but_not_written(database: Database):
    measure(database, Point.of(T=8))
    reader = Database(f"sqlite:///file:{database.place}?mode=ro&uri=true")
    assert len(reader.points("sig", CPU)) == 1
    with pytest.raises(DatabaseError, match="read-only"):
        reader.claim("sig", CPU, Point.of(T=9))
    reader.close()


def test_a_full_disk_keeps_what_was_committed(database: Database):
    measure(database, *(Point.of(T=tokens) for tokens in range(1, 4)))
    full = Database(database.place)
    with full._engine.connect() as connection:  # the limit holds for this connection, which the pool hands out again
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    claim = full.claim("sig", CPU, Point.of(T=100))
    assert claim is not None
    with pytest.raises(DatabaseError, match="the disk is full; what was measured before is kept"):
        full.record_ok(claim, Samples(tuple(float(i) for i in range(5000))))
    full.close()
    assert {m.point.axes["T"] for m in database.points("sig", CPU)} == {1, 2, 3}


def test_two_processes_may_create_the_file_at_once(tmp_path: Path):
    path = str(tmp_path / "new.db")
    code = "import sys; from dooly.database import Database; Database(sys.argv[1]).close()"
    makers = [subprocess.Popen([sys.executable, "-c", code, path]) for _ in range(3)]
    assert [maker.wait(timeout=60) for maker in makers] == [0, 0, 0]
    Database(path, create=False).close()
