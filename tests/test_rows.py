"""One row each: an invented GPU, attention backend and part of host time, of which a prediction is made."""

from dataclasses import replace
from types import MappingProxyType

import pytest

from dooly import host
from dooly.batch import MODES, Batch
from dooly.capture import check_backend
from dooly.database import Database, Point, Samples
from dooly.hardware import backends, environment, gpus
from dooly.hardware.environment import environment_for, host_environment
from dooly.hardware.machine import Machine
from dooly.host import HostPart, launch_of
from dooly.ir import Program, parse_program
from dooly.passes import PIPELINE, run
from dooly.workspace.models import machine_of, saved_from

TEXT = """
graph "small" {
  config H = 512, Nq = 8, D = 64
  request T
  captured 0
  %x = input() : bf16[T, H]
  %w = weight() : bf16[3*D*Nq, H]
  %qkv = linear(%x, %w) : bf16[T, 3*D*Nq]
  %q, %k, %v = split(%qkv) {dim = 1} : bf16[T, D*Nq], bf16[T, D*Nq], bf16[T, D*Nq]
  %a = attention(%q, %k, %v) {ATTRIBUTES} : bf16[T, D*Nq]
  return %a
}
""".replace(
    "ATTRIBUTES",
    'backend = "WAVE_ATTN", causal = true, head_size = D, heads = Nq, kv_dtype = "bf16", kv_heads = Nq, '
    "sinks = false, soft_cap = none, window = none",
)
FACTS = (("driver", "900"), ("wavelib", "1.0"), ("cublas", "20"), ("cuda", "20.0"), ("processor", "Any"))
BOARD = Machine(
    platform="b999",
    host="vm",
    device="NVIDIA B999",
    isa="sm_200",
    threads=8,
    cache_bytes=0,
    memory_bytes=300 << 30,
    torch="2.11.0",
    engine="vllm 0.26.0",
    python="3.12.3",
    block_size=16,
    mode="graph",
    facts=FACTS,
)


@pytest.fixture
def rows(monkeypatch):
    """The three rows."""
    gpu = gpus.PlatformSpec("NVIDIA B999", (20, 0), 300 << 30, 200, 5000.0, 16000.0, "XB999")
    monkeypatch.setattr(gpus, "PLATFORMS", MappingProxyType({**gpus.PLATFORMS, "b999": gpu}))
    for module in (backends, environment):
        monkeypatch.setattr(module, "PLATFORMS", gpus.PLATFORMS)
    wave = backends.Backend("WAVE_ATTN", offered=True, library="wavelib")
    monkeypatch.setattr(backends, "BACKENDS", MappingProxyType({**backends.BACKENDS, "WAVE_ATTN": wave}))
    part = HostPart("host_router", "before", ("R",), on=None, optional=True)
    monkeypatch.setattr(host, "PARTS", (*host.PARTS, part))


@pytest.fixture
def database(tmp_path, rows):
    """All parts of the host and all operations of the model, as measured on the GPU."""
    found = Database(tmp_path / "latency.db")

    def store(signature, target, text, home, times):
        found.add_operation(signature, target, text)
        for point, us in times.items():
            claim = found.claim(signature, home, point)
            assert claim is not None
            found.record_ok(claim, Samples((us,)))

    def times(axes, us):
        return {Point.of(**dict.fromkeys(axes, size)): us(size) for size in (1, 8, 64, 256)}

    for part in host.PARTS:
        if part.on in (None, "cuda") and not part.optional:
            axes = [axis for axis in part.axes if axis != "Rp"]
            store(part.name, part.name, part.name, host_environment(BOARD), times(axes, lambda size: 100.0 + size))
    store("host_router", "host_router", "", host_environment(BOARD), times(("R",), lambda size: 40.0 + 3.0 * size))
    for each in program().operations:
        home, text = environment_for(each, BOARD), str(Program((), (each,)))
        if each.kind.stateful:
            decodes = [[(1, c)] * r for r in (1, 2, 8, 32, 64) for c in (64, 512, 2048, 8192)]
            prompts = [[(n, 0)] for n in (16, 64, 128, 512, 1024, 2048)] + [[(128, 0), *[(1, 512)] * 8]]
            points = {Point.of_requests(each): attention_us(each) for each in decodes + prompts}
        else:
            points = times(each.axes, lambda size: 4.0 + size / 50)
        store(each.signature, each.target, text, home, points)
    yield found
    found.close()


def attention_us(requests: list[tuple[int, int]]) -> float:
    return 5.0 + sum(new * (new + cached) for new, cached in requests) / 1e4


def program() -> Program:
    return run(parse_program(TEXT), PIPELINE)


def test_an_invented_gpu_backend_and_part_of_host_time_give_a_prediction(database):
    assert check_backend("b999", "wave_attn") == "WAVE_ATTN"
    here = machine_of(database, "b999")
    saved = saved_from(database, program(), here, fit_missing=True)
    batch = Batch.of(*[(1, 512)] * 8)
    step = saved.steps.step_time(batch)
    assert saved.formulas["host_router"].predict_one({"R": 8.0})[0] == pytest.approx(64.0, rel=0.05)
    without = replace(saved, formulas={k: v for k, v in saved.formulas.items() if k != "host_router"})
    sooner = step.host_before_us - without.steps.step_time(batch).host_before_us
    assert sooner == pytest.approx(64.0, rel=0.05)
    assert step.device_us == pytest.approx(4.0 + 8 / 50 + attention_us([(1, 512)] * 8), rel=0.1)
    assert step.launch_us > 0
    assert {launch_of(mode) for mode in MODES} <= set(saved.formulas)


def test_the_library_of_a_backend_is_a_fact_of_its_points(rows):
    (attention,) = (each for each in program().operations if each.kind.stateful)
    assert environment_for(attention, BOARD).get("wavelib") == "1.0"
