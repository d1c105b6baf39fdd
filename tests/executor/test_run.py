"""Carrying out a plan: budget, failures, memory, interrupts, other processes; runners only pretend to work."""

import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from dooly.database import Database, Point, Status
from dooly.errors import DatabaseError, ProfileError, SimulationError
from dooly.executor import Precision, make_plan, run
from dooly.executor.host import measure as host
from dooly.executor.plan.sweep import coarse_points
from dooly.executor.session import Unsupported
from dooly.executor.timing import stopwatch
from dooly.executor.timing.cpu import confidence, measure
from dooly.hardware.environment import environment_for
from dooly.hardware.gpu import Slowed
from dooly.ir.opset import fewest_points
from tests.executor.planned import RANGES, go


@pytest.fixture
def host_of(monkeypatch):
    """Let something else be done where the host is measured."""

    def measure_host(do):
        monkeypatch.setattr(run, "measure_host", lambda *_: do() or 0)

    return measure_host


@pytest.mark.parametrize("budget_s", [0.0, -3.0])
def test_a_budget_must_be_positive(database, pretend, somewhere, step, budget_s: float):
    plan = make_plan(list(step("f32").values()), database, somewhere, RANGES)
    with pytest.raises(ProfileError, match="expected more than 0"):
        go(plan, database, budget_s=budget_s)
    assert pretend.called == []


def test_the_budget_is_obeyed_and_the_rest_is_named(database, pretend, somewhere, step):
    operations = list(step("f32").values())
    plan = make_plan(operations, database, somewhere, RANGES)
    outcome = go(plan, database, budget_s=0.001)
    assert outcome.taken < plan.points_missing
    assert not outcome.complete
    assert set(outcome.left) <= {operation.name for operation in operations}
    rest = make_plan(operations, database, somewhere, RANGES)
    assert rest.points_missing + outcome.taken == plan.points_missing
    assert go(rest, database).complete


def test_telling_points_of_all_operations_come_first(database, pretend, somewhere, step):
    operations = list(step("f32").values())
    seen = []
    plan = make_plan(operations, database, somewhere, RANGES)
    go(plan, database, progress=lambda event: seen.append(event.operation) if event.what == "ok" else None)
    head = seen[: sum(min(fewest_points(len(row.operation.axes)), len(row.missing)) for row in plan.rows)]
    assert set(head) == {operation.name for operation in operations}


def test_a_failed_kernel_is_recorded_and_tried_again_only_when_asked(database, pretend, somewhere, step):
    operation = step("f32")["linear2 256"]
    pretend.fail[Point.of(T=64)] = RuntimeError("kernel exploded\nlong trace")
    outcome = go(make_plan([operation], database, somewhere, RANGES), database)
    assert outcome.failed == 1
    (failed,) = database.points(operation.signature, environment_for(operation, somewhere), status=Status.FAILED)
    assert failed.reason == "RuntimeError: kernel exploded"
    assert failed.point == Point.of(T=64)
    pretend.fail.clear()
    plan = make_plan([operation], database, somewhere, RANGES)
    assert plan.rows[0].failed == 1
    assert plan.rows[0].missing == ()
    plan = make_plan([operation], database, somewhere, RANGES, retry_failed=True)
    assert plan.rows[0].missing == (Point.of(T=64),)
    assert go(plan, database, retry_failed=True).taken >= 1
    assert database.points(operation.signature, environment_for(operation, somewhere), status=Status.FAILED) == []


def test_lack_of_memory_is_a_failure_and_other_operations_go_on(database, pretend, somewhere, step):
    big, small = step("f32")["linear2 256"], step("f32")["linear2 128"]
    pretend.fail[big.name] = MemoryError("needs 900 GiB")
    outcome = go(make_plan([big, small], database, somewhere, RANGES), database)
    assert outcome.failed == len(coarse_points(big, RANGES))
    assert len(database.points(small.signature, environment_for(small, somewhere))) >= len(coarse_points(small, RANGES))
    rows = database.points(big.signature, environment_for(big, somewhere), status=Status.FAILED)
    assert {row.reason for row in rows} == {"out of memory: needs 900 GiB"}


def test_a_gpu_without_room_says_so_and_the_rest_goes_on(database, pretend, somewhere, step):
    class OutOfMemoryError(RuntimeError):  # torch's has this name
        pass

    operation = step("f32")["linear2 256"]
    pretend.fail[Point.of(T=64)] = OutOfMemoryError("tried to allocate 90 GiB")
    assert go(make_plan([operation], database, somewhere, RANGES), database).failed == 1
    (failed,) = database.points(operation.signature, environment_for(operation, somewhere), status=Status.FAILED)
    assert failed.reason == "out of memory: tried to allocate 90 GiB"


def test_a_lost_device_ends_the_run_and_the_next_goes_on_after_the_point(database, pretend, somewhere, step):
    operation = step("f32")["linear2 256"]
    points = coarse_points(operation, RANGES)
    pretend.fail[points[1]] = RuntimeError("an illegal memory access was encountered")

    def lost():
        raise ProfileError("the GPU is lost to this process")

    pretend.recover = lost
    with pytest.raises(ProfileError, match="is lost"):
        go(make_plan([operation], database, somewhere, RANGES), database)
    environment = environment_for(operation, somewhere)
    assert [m.point for m in database.points(operation.signature, environment)] == [points[0]]
    (failed,) = database.points(operation.signature, environment, status=Status.FAILED)
    assert failed.point == points[1]
    rest = make_plan([operation], database, somewhere, RANGES)
    assert not set(points[:2]) & set(rest.rows[0].missing)
    assert go(rest, database).taken >= len(points) - 2


def test_a_gpu_that_is_too_hot_ends_the_run_and_leaves_the_point_to_others(database, pretend, somewhere, step):
    operation = step("f32")["linear2 256"]
    points = coarse_points(operation, RANGES)
    pretend.fail[points[1]] = Slowed("the GPU is slowed down by heat")
    with pytest.raises(ProfileError, match="slowed down by heat"):
        go(make_plan([operation], database, somewhere, RANGES), database)
    stored = database.points(operation.signature, environment_for(operation, somewhere), status=None)
    assert [(each.point, each.status) for each in stored] == [(points[0], Status.OK)]
    assert set(make_plan([operation], database, somewhere, RANGES).rows[0].missing) == set(points[1:])


def test_what_the_engine_cannot_run_is_skipped_with_its_reason(database, pretend, somewhere, step):
    operation = step("f32")["attention3 128"]
    pretend.fail[operation.name] = Unsupported("no such backend here")
    outcome = go(make_plan([operation], database, somewhere, RANGES), database)
    assert (outcome.taken, outcome.skipped) == (0, len(coarse_points(operation, RANGES)))
    rows = database.points(operation.signature, environment_for(operation, somewhere), status=Status.SKIPPED)
    assert {row.reason for row in rows} == {"no such backend here"}
    assert pretend.built == [operation.name]
    assert make_plan([operation], database, somewhere, RANGES).done


def test_an_operation_found_impossible_late_keeps_its_points(database, pretend, somewhere, step):
    operation = step("f32")["linear2 256"]
    points = coarse_points(operation, RANGES)
    pretend.fail[points[1]] = Unsupported("not with so many rows")
    outcome = go(make_plan([operation], database, somewhere, RANGES), database)
    assert (outcome.taken, outcome.skipped, outcome.elsewhere) == (1, len(points) - 1, 0)
    assert make_plan([operation], database, somewhere, RANGES).done


def test_dropped_runners_leave_the_engines_registry_too(database, pretend, somewhere, step):
    first, second = step("f32")["linear2 256"], step("f32")["linear2 128"]
    tiny = replace(somewhere, memory_bytes=4 << 20)  # a quarter of it holds one pretended runner
    go(make_plan([first, second], database, tiny, RANGES), database)
    assert len(pretend.layers) == 1
    assert len(pretend.built) > 2


def test_what_could_not_be_built_leaves_the_engines_registry(database, pretend, somewhere, step):
    operation = step("f32")["linear2 256"]
    pretend.fail[operation.name] = Unsupported("nothing like it")
    go(make_plan([operation], database, somewhere, RANGES), database)
    assert pretend.built == [operation.name]
    assert pretend.layers == {}


def test_the_largest_runner_is_dropped_and_small_ones_are_kept(database, pretend, somewhere, step):
    large, other, small = (step("f32")[label] for label in ("linear2 256", "linear2 128", "silu_and_mul"))
    pretend.weight_bytes = {large.name: 3 << 20, other.name: 3 << 20, small.name: 1 << 18}
    plan = make_plan([large, other, small], database, replace(somewhere, memory_bytes=16 << 20), RANGES)
    go(plan, database)
    assert pretend.built.count(large.name) + pretend.built.count(other.name) > 2
    assert pretend.built.count(small.name) == 1


def test_an_interrupt_gives_the_point_in_hand_back(database, pretend, somewhere, step):
    operation = step("f32")["linear2 256"]
    points = coarse_points(operation, RANGES)
    pretend.fail[points[2]] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        go(make_plan([operation], database, somewhere, RANGES), database)
    environment = environment_for(operation, somewhere)
    assert [m.point for m in database.points(operation.signature, environment, status=None)] == list(points[:2])
    pretend.fail.clear()
    assert go(make_plan([operation], database, somewhere, RANGES), database).complete


def test_points_claimed_by_another_process_are_left_to_it(database, pretend, somewhere, step):
    operation = step("f32")["linear2 256"]
    plan = make_plan([operation], database, somewhere, RANGES)
    text = "elsewhere"
    outcome = None
    environment = environment_for(operation, somewhere)

    def interfere(event):
        if event.what == "start":
            other = Database(database.place)
            assert other.claim(operation.signature, environment, plan.rows[0].missing[0]) is not None
            other.close()

    outcome = go(plan, database, progress=interfere)
    assert outcome.elsewhere == 1, text
    assert plan.rows[0].missing[0] not in pretend.called


def test_operations_that_another_process_is_at_come_last(database, pretend, somewhere, step):
    first, second = step("f32")["linear2 256"], step("f32")["linear2 128"]
    plan = make_plan([first, second], database, somewhere, RANGES)
    busy = plan.rows[0]

    def interfere(event):
        if event.what == "start":
            other = Database(database.place)
            assert other.claim(busy.operation.signature, busy.environment, busy.missing[0]) is not None
            other.close()

    go(plan, database, progress=interfere)
    assert pretend.built == [plan.rows[1].operation.name, busy.operation.name]


def test_a_full_disk_stops_the_run_and_keeps_what_is_there(database, pretend, somewhere, step, monkeypatch):
    operation = step("f32")["linear2 256"]
    real, calls = Database.record_ok, []

    def record_ok(self, claim, samples):
        calls.append(claim)
        if len(calls) == 3:
            raise DatabaseError("latency.db: the disk is full")
        return real(self, claim, samples)

    monkeypatch.setattr(Database, "record_ok", record_ok)
    with pytest.raises(DatabaseError, match="disk is full"):
        go(make_plan([operation], database, somewhere, RANGES), database)
    assert len(database.points(operation.signature, environment_for(operation, somewhere))) == 2


def test_measuring_stops_when_the_median_is_known():
    assert confidence([1.0] * 8) == 0.0
    assert confidence([1.0, 2.0]) == float("inf")
    samples = measure(lambda: time.sleep(0.0005), Precision(tolerance=0.5, cap_s=5.0))
    assert 9 <= len(samples.values_us) < 200
    assert min(samples.values_us) >= 500.0
    assert samples.loops == 1
    quick = measure(lambda: None, Precision(min_samples=3, max_samples=4))
    assert quick.loops > 50
    assert len(quick.warmups_us) >= 3


def test_a_budget_too_short_for_host_time_says_so(tmp_path: Path, pretend, somewhere, step, monkeypatch):
    monkeypatch.setattr(run, "measure_host", lambda *_: pytest.fail("must not be begun"))
    database = Database(tmp_path / "latency.db")
    plan = make_plan([step("f32")["linear2 256"]], database, somewhere, RANGES)
    assert plan.host_missing
    outcome = go(plan, database, budget_s=5.0)
    assert outcome.left == ["host time"]
    assert outcome.taken > 0
    database.close()


def test_operations_are_measured_where_the_host_s_engine_does_not_start(
    tmp_path: Path, pretend, somewhere, step, monkeypatch
):
    def refuse(*_):
        raise SimulationError("the engine does not start: no memory")

    monkeypatch.setattr(run, "measure_host", refuse)
    database = Database(tmp_path / "latency.db")
    plan = make_plan([step("f32")["linear2 256"]], database, somewhere, RANGES)
    outcome = go(plan, database, budget_s=60.0)
    assert outcome.host_error == "the engine does not start: no memory"
    assert outcome.taken >= plan.points_missing > 0
    database.close()


def test_host_time_that_cannot_be_measured_is_one_clear_line(monkeypatch, somewhere, step):
    @contextmanager
    def no_session(machine):
        yield None

    def refuse(operation, session):
        raise Unsupported("no such backend here")

    monkeypatch.setattr(host, "open_session", no_session)
    monkeypatch.setattr(host, "make_runner", refuse)
    with pytest.raises(ProfileError, match="of the load cannot run here: no such backend here"):
        host._alone(somewhere, list(step("f32").values()))


def test_what_a_prediction_needs_comes_first_then_the_host_then_the_rest(tmp_path, pretend, somewhere, step, host_of):
    operations = list(step("f32").values())
    unknown = Database(tmp_path / "without-host.db")
    plan = make_plan(operations, unknown, somewhere, RANGES)
    assert plan.host_missing
    seen: list[str] = []
    host_of(lambda: seen.append("host"))
    outcome = go(plan, unknown, progress=lambda event: seen.append(event.operation) if event.what == "ok" else None)
    unknown.close()
    before, after = seen[: seen.index("host")], seen[seen.index("host") + 1 :]
    for row in plan.rows:
        assert before.count(row.operation.name) == min(fewest_points(len(row.operation.axes)), len(row.missing))
    assert len(before) + len(after) == outcome.taken
    assert after


def test_a_budget_too_short_for_the_host_leaves_it_and_measures_operations(tmp_path, pretend, somewhere, step, host_of):
    unknown = Database(tmp_path / "without-host.db")
    host_of(lambda: pytest.fail("the host was begun"))
    plan = make_plan(list(step("f32").values()), unknown, somewhere, RANGES)
    outcome = go(plan, unknown, budget_s=plan.host_s - 1.0)
    unknown.close()
    assert outcome.left == ["host time"]
    assert outcome.taken >= plan.points_missing


def test_a_budget_is_not_used_up_by_other_processes(tmp_path, monkeypatch):
    waited = tmp_path / "schedstat"
    waited.write_text("0 5000000000 1\n")
    monkeypatch.setattr(stopwatch, "_WAITED", waited)
    watch = stopwatch.Stopwatch()
    waited.write_text("0 65000000000 1\n")
    assert watch.waited_s == 60.0
    assert watch.busy_s == pytest.approx(watch.elapsed_s - 60.0, abs=0.1)
    waited.unlink()
    assert watch.waited_s == 0.0, "where the platform does not say"
