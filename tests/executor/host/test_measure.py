import json
from dataclasses import replace
from pathlib import Path

import pytest

from dooly.database import Database, Point, Samples
from dooly.engine.probe import SeenStep
from dooly.engine.process import in_own_process
from dooly.engine.settings import EngineSettings
from dooly.errors import ProfileError, SimulationError
from dooly.executor.host import measure as host
from dooly.executor.host.engine import Asked, TimedStep, record
from dooly.executor.host.load import load_for
from dooly.executor.host.measure import host_cost_s, measure_host
from dooly.executor.trial import Unsupported
from dooly.hardware.environment import host_environment
from dooly.hardware.machine import machine
from dooly.host import host_parts
from dooly.ir import Kind

pytestmark = pytest.mark.engine

SETTINGS = EngineSettings(max_num_seqs=2, max_num_batched_tokens=32, max_model_len=64, num_blocks=16)
WORKLOADS = ((Asked(8, 2),), (Asked(5, 3), Asked(5, 3)))


def test_host_time_is_measured_once_from_the_real_engine(tmp_path: Path):
    here = machine()
    database = Database(tmp_path / "latency.db")
    assert host_cost_s(database, here) > 0.0
    said = []
    taken = measure_host(database, here, said.append)
    assert taken == 2 * len(load_for(machine()).points) + 3
    assert len(said) == 4
    for signature in host_parts()[:3]:
        points = database.points(signature, host_environment(here))
        assert points
        if signature != "host_dispatch":
            assert all(measurement.latency_us > 0.0 for measurement in points)
            assert all(len(measurement.samples.values_us) >= 5 for measurement in points)
    counts = [m.point.axes["N"] for m in database.points("host_dispatch", host_environment(here))]
    assert counts == sorted(set(counts))
    assert counts[0] > 10
    assert host_cost_s(database, here) == 0.0
    assert measure_host(database, here) == 0
    database.close()


def test_when_a_device_starts_is_known_where_it_is_slower_than_the_host(tmp_path: Path):
    """An idle one is done later by that; before one that is still at a step it has the engine's copies.

    Not where the host is the slower of the two: the device is idle with either scheduling.
    """
    here, database = machine(), Database(tmp_path / "latency.db")
    decode = TimedStep(4, 4, "FULL", False, before_us=2000.0, launch_us=1500.0, device_us=9500.0, total_us=12000.0)
    steps = [replace(decode, device_us=9500.0 + 10.0 * place) for place in range(5)]
    steps += [replace(decode, overlapped=True, device_us=9000.0)] * 2
    steps += [replace(decode, overlapped=True, device_us=9000.0, between_us=30.0 + place) for place in range(3)]
    slow = replace(decode, requests=64, tokens=64, before_us=6500.0, total_us=17500.0)
    steps += [slow] * 5 + [replace(slow, overlapped=True, device_us=9000.0, between_us=700.0)] * 5
    host._store_device(host._Claims(database, host_environment(here)), [*steps, replace(decode, mode="NONE")])
    (found,) = database.points("host_lead", host_environment(here))
    assert (found.point, found.samples.values_us) == (Point.of(R=4), (9500.0, 9510.0, 9520.0, 9530.0, 9540.0))
    assert found.latency_us == 520.0
    (found,) = database.points("host_between", host_environment(here))
    assert (found.point, found.samples.values_us) == (Point.of(R=4), (30.0, 31.0, 32.0))
    database.close()


def test_beside_the_time_to_queue_a_step_stands_that_of_its_attention(tmp_path: Path, step):
    here, database = machine(), Database(tmp_path / "latency.db")
    operations = tuple(step("f32").values())
    timed = [TimedStep(4, 4, "NONE", False, 100.0, 900.0 + place, 500.0, 1500.0) for place in range(3)]
    alone = {each.signature: Samples((5.0,), aside=(("power_w", 1.0), ("queued_us", 30.0))) for each in operations}
    book = host._Claims(database, host_environment(here))
    host._store_launch(book, timed, operations, alone)
    (found,) = database.points("host_launch_none", host_environment(here))
    assert found.samples.values_us == (900.0, 901.0, 902.0)
    assert found.samples.aside == (("queued_us", 30.0),)
    database.close()


def test_steps_with_experts_and_second_calls_are_kept_as_they_were(tmp_path: Path, step):
    here, database = machine(), Database(tmp_path / "latency.db")
    (attention,) = (each for each in step("f32").values() if each.kind is Kind.ATTENTION)
    layers = attention.count
    book = host._Claims(database, host_environment(here))
    pieces = [TimedStep(5, 90, "PIECEWISE", False, 100.0, us, 500.0, 1500.0) for us in (900.0, 700.0, 800.0)]
    host._store_launch(book, pieces, [attention], twice=True)
    (found,) = database.points("host_launch_piecewise", host_environment(here))
    assert (found.point, found.samples.values_us) == (Point.of(N=layers, R=5, Y=layers), (900.0, 700.0, 800.0))
    experts = replace(attention, target="moe")
    shape = host._launched([attention, experts], "NONE", 4)
    assert shape == Point.of(N=layers, R=4, X=layers)
    assert host._launched([attention, experts], "FULL", 4) == Point.of(N=2 * layers, R=4)
    database.close()


EIGHT, MORE = Point.of(N=9, R=4, X=8), Point.of(N=9, R=64, X=8)
DEEPER = Point.of(N=9, R=4, X=24)


@pytest.mark.parametrize(
    ("known", "seconds"),
    [
        ({}, 380.0),
        ({"power_limit": [Point.of(U=10_000)]}, 350.0),
        (
            {
                "power_limit": [Point.of(U=10_000)],
                "host_launch_none": [EIGHT, MORE],
            },
            350.0,
        ),
        (
            {
                "power_limit": [Point.of(U=10_000)],
                "host_launch_none": [EIGHT, DEEPER],
            },
            190.0,
        ),
    ],
)
def test_what_is_left_of_host_time_on_a_gpu_costs_less(tmp_path: Path, somewhere, known, seconds: float):
    gpu = replace(somewhere, platform="h200")
    database, environment = Database(tmp_path / "latency.db"), host_environment(gpu)
    for part, points in known.items():
        database.add_operation(part, part, f"pseudo operation {part}")
        for point in points:
            database.record_ok(database.claim(part, environment, point), Samples((10_000.0,)))
    assert host_cost_s(database, gpu) == seconds
    database.close()


def test_flashinfer_is_left_out_of_host_time_where_it_is_not_installed(tmp_path: Path, somewhere):
    gpu = replace(somewhere, platform="h200")
    database = Database(tmp_path / "latency.db")
    without, with_it = (host_cost_s(database, each) for each in (gpu, replace(gpu, facts=(("flashinfer", "0.6"),))))
    assert with_it - without == 70.0
    database.close()


@pytest.mark.parametrize("error", [RuntimeError("no graph"), MemoryError("full"), Unsupported("no kernel")])
def test_products_that_cannot_run_are_said_and_their_claims_given_back(tmp_path: Path, monkeypatch, error: Exception):
    def failing(*_):
        raise error

    here, database = machine(), Database(tmp_path / "latency.db")
    book = host._Claims(database, host_environment(here))
    book.claim("power_limit", Point.of(U=10_000))
    monkeypatch.setattr(host, "in_own_process", failing)
    with pytest.raises(ProfileError, match=f"power limit: the products of the load cannot run here: {error}"):
        host._store_power_limit(book, here, ())
    book.release()
    assert database.points("power_limit", host_environment(here), status=None) == []
    database.close()


def test_how_long_a_device_copies_is_asked_of_its_events_where_steps_overlap():
    class Event:
        def __init__(self, at_ms):
            self.at_ms = at_ms

        def synchronize(self):
            pass

        def elapsed_time(self, other):
            return other.at_ms - self.at_ms

    def seen(start_s, ready_s, first_ms, last_ms):
        moments = {"called_s": start_s + 1e-3, "issued_s": start_s + 2e-3, "ready_s": ready_s, "end_s": ready_s + 1e-4}
        events = (Event(first_ms), Event(last_ms))
        return SeenStep(("a",), ((1, 5),), (), (), start_s, start_s, **moments, mode="FULL", events=events)

    first, second, third = seen(0.0, 0.012, 1.0, 10.0), seen(0.005, 0.020, 10.05, 19.0), seen(0.021, 0.03, 21.5, 29.0)
    assert TimedStep.of(second, True, first).between_us == pytest.approx(50.0)
    assert TimedStep.of(third, True, second).between_us is None  # the device was idle
    assert TimedStep.of(second, False, first).between_us is None
    assert TimedStep.of(first, True, None).between_us is None


def test_a_gpus_load_has_a_model_with_experts_and_prompts_for_it(tmp_path: Path):
    load = load_for(replace(machine(), platform="h200"))
    assert len(load.mixtures) == 2  # one would not tell what is of a step from what is of each mixture
    for depth in load.mixtures:
        config = json.loads((load.write_mixture(tmp_path / str(depth), depth) / "config.json").read_text())
        assert (config["model_type"], config["num_hidden_layers"]) == ("qwen3_moe", depth)
    one_by_one = [each for each in load.prompts() if len(each) == 4 and sum(asked.prompt for asked in each) > 512]
    assert len(one_by_one) >= 3
    assert not load_for(machine()).mixtures
    beside = [sum(not asked.after for asked in each) for each in load.arriving()]
    assert set(beside) == {1, 4, 16, 64}


def test_prompts_that_arrive_meanwhile_are_prefilled_beside_those_that_decode(tmp_path: Path):
    folder = load_for(machine()).write_model(tmp_path / "model", 2)
    steps = record(folder, SETTINGS, (), ((Asked(4, 6), Asked(9, 1, after=2), Asked(7, 1, after=4)),))
    assert [(step.requests, step.tokens) for step in steps] == [(1, 4), (1, 1), (2, 10), (1, 1), (2, 8), (1, 1)]
    assert [step.kind for step in steps] == ["prefill", "decode", "mixed", "decode", "mixed", "decode"]


def test_a_gpus_load_has_mixed_steps_of_any_size():
    load = load_for(replace(machine(), platform="h200"))
    mixed = [each for each in load.workloads() if any(asked.after for asked in each)]
    prompts = [asked.prompt for each in mixed for asked in each if asked.after]
    assert len(set(prompts)) > 0.9 * len(prompts) > 100
    assert all(64 <= prompt <= load.tokens - load.requests for prompt in prompts)
    assert {sum(not asked.after for asked in each) for each in mixed} == {4, 16, 64}
    for each in mixed:  # all that decode still do when the last prompt arrives
        last = max(asked.after for asked in each)
        assert all(asked.output > last for asked in each if not asked.after)


def test_an_engine_in_a_process_of_its_own_takes_the_same_steps(tmp_path: Path):
    folder = load_for(machine()).write_model(tmp_path / "model", 2)
    here = record(folder, SETTINGS, WORKLOADS, WORKLOADS)
    apart = in_own_process(record, folder, SETTINGS, WORKLOADS, WORKLOADS)
    shapes = [(step.requests, step.tokens, step.mode) for step in here]
    assert shapes == [(step.requests, step.tokens, step.mode) for step in apart]
    assert (2, 10, "NONE") in shapes
    assert all(step.total_us > step.device_us > 0.0 and not step.overlapped for step in apart)


def test_what_stops_an_engine_in_a_process_of_its_own_comes_back(tmp_path: Path):
    with pytest.raises(SimulationError, match=r"no config\.json"):
        in_own_process(record, tmp_path, SETTINGS, WORKLOADS, WORKLOADS)
