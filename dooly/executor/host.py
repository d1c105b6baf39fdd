"""Host time: what a step of the real engine takes besides its operations, measured once per host and engine.

Three pseudo operations hold it, so that it is stored, claimed and fitted as everything else:

``host_before``    {R, T}: schedule, prepare inputs, build attention metadata, until the model is called
``host_after``     {R, T}: after the model: sampling's bookkeeping, update of the scheduler
``host_dispatch``  {N}: a forward pass over N operations takes this much longer than the operations by themselves

A tiny model serves as the load: what is left when its own work is taken away does not depend on the model.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dooly.database import Claim, Database, Point, Samples
from dooly.engine import CpuEngine, EngineSettings, start_cpu_engine
from dooly.executor.environment import host_environment
from dooly.executor.machine import Machine
from dooly.executor.runners import make_runner
from dooly.executor.session import open_session
from dooly.executor.timing import Precision, measure
from dooly.ir import Kind, Operation, Program

__all__ = ["HOST_COST_S", "HOST_OPERATIONS", "measure_host", "missing_host_points"]

HOST_OPERATIONS = ("host_before", "host_after", "host_dispatch")
"""Signatures under which host time is stored."""

HOST_COST_S = 25.0
"""Rough wall seconds of measuring host time, imports not included."""

_DEPTHS = (2, 8)
_REQUESTS, _TOKENS = 16, 512
_DECODE = 4
_CONTEXT = 32
_STEPS = 24

_MODEL: dict[str, object] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 256,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": False,
}


def _workloads() -> tuple[tuple[tuple[int, int], ...], ...]:
    """Batches of (prompt tokens, output tokens), submitted together, one batch after the other."""
    decode = tuple(((_CONTEXT, _STEPS),) * count for count in (1, 4, _REQUESTS))
    prefill = tuple(((tokens, 1),) for tokens in (64, _TOKENS)) * 4
    several = (((_TOKENS // _REQUESTS, 1),) * _REQUESTS, ((_TOKENS // 4, 1),) * 4) * 4
    return decode + prefill + several


def wanted_points() -> dict[str, tuple[Point, ...]]:
    """Points of host time by signature.  The depths of the tiny models decide those of `host_dispatch`."""
    shapes = {(len(batch), sum(prompt for prompt, _ in batch)) for batch in _workloads()}
    shapes |= {(len(batch), len(batch)) for batch in _workloads() if batch[0][1] > 1}
    steps = tuple(Point.of(R=requests, T=tokens) for requests, tokens in sorted(shapes))
    return {"host_before": steps, "host_after": steps}


def missing_host_points(database: Database, machine: Machine) -> bool:
    """Whether any part of host time of this machine and engine is unknown."""
    environment = host_environment(machine)
    for signature, points in wanted_points().items():
        have = {measurement.point for measurement in database.points(signature, environment)}
        if not have >= set(points):
            return True
    return len(database.points("host_dispatch", environment)) < len(_DEPTHS)


@dataclass
class _Step:
    """Times of one engine step, us, and what it worked on."""

    requests: int
    tokens: int
    before_us: float = 0.0
    model_us: float = 0.0
    wall_us: float = 0.0


@dataclass
class _Recorder:
    """Collects steps while `recording` is in force."""

    steps: list[_Step] = field(default_factory=list)
    started_ns: int = 0

    def current(self) -> _Step:
        return self.steps[-1]


def measure_host(database: Database, machine: Machine, note: Callable[[str], None] = lambda _: None) -> int:
    """Measure whatever of host time is missing and commit it; returns how many points were taken.

    Must not run while a session is open: it starts and stops engines.

    Args:
        note: told what is being done, for a progress display.

    Raises:
        SimulationError: the engine does not start.
        CaptureError: the tiny model cannot be captured.
    """
    if not missing_host_points(database, machine):
        return 0
    environment = host_environment(machine)
    for signature in HOST_OPERATIONS:
        database.add_operation(signature, signature, f"pseudo operation {signature}")
    taken = 0
    with tempfile.TemporaryDirectory(prefix="dooly-host-") as name:
        folders = {depth: _write_model(Path(name) / f"layers-{depth}", depth) for depth in _DEPTHS}
        note("host time: operations of the tiny model")
        programs = {depth: _operations(folder) for depth, folder in folders.items()}
        alone_us = _alone(machine, [op for program in programs.values() for op in program])
        for depth, folder in folders.items():
            note(f"host time: engine with {depth} layers")
            steps = _record(folder, machine)
            if depth == _DEPTHS[0]:
                taken += _store_steps(database, environment, steps)
            taken += _store_dispatch(database, environment, steps, programs[depth], alone_us)
    return taken


def _write_model(folder: Path, depth: int) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(_MODEL | {"num_hidden_layers": depth}))
    return folder


def _operations(folder: Path) -> tuple[Operation, ...]:
    from dooly import passes
    from dooly.capture import capture

    return passes.run(Program((capture(folder),)), passes.PIPELINE).operations


# -- the operations by themselves ------------------------------------------------------------------------------------


def _alone(machine: Machine, operations: Iterable[Operation]) -> dict[str, float]:
    """Median latency of each operation at the decode batch of the recorded steps, us by signature."""
    medians: dict[str, float] = {}
    with open_session(machine) as session:
        for operation in operations:
            if operation.signature not in medians:
                trial = make_runner(operation, session).trial(_decode_point(operation))
                medians[operation.signature] = statistics.median(measure(trial.call, Precision()).values_us)
    return medians


def _decode_point(operation: Operation) -> Point:
    if operation.kind is Kind.ATTENTION:
        return Point.of_requests([(1, _CONTEXT + _STEPS // 2)] * _DECODE)
    return Point.of(**dict.fromkeys(operation.axes, _DECODE))


# -- the engine ------------------------------------------------------------------------------------------------------


def _record(folder: Path, machine: Machine) -> list[_Step]:
    settings = EngineSettings(
        max_num_seqs=_REQUESTS,
        max_num_batched_tokens=_TOKENS,
        max_model_len=2 * _TOKENS,
        block_size=machine.block_size,
    )
    with start_cpu_engine(folder, settings) as engine:
        _serve(engine, [((_TOKENS, 2),), ((_CONTEXT, 8),) * _DECODE], "warm-up")
        with _recording(engine) as recorder:
            _serve(engine, _workloads(), "timed", recorder)
    return recorder.steps


def _serve(
    engine: CpuEngine, batches: Iterable[Sequence[tuple[int, int]]], label: str, recorder: _Recorder | None = None
) -> None:
    for number, batch in enumerate(batches):
        for index, (prompt, output) in enumerate(batch):
            ids = [(7 * number + 3 * index + i) % engine.vocab_size for i in range(prompt)]
            engine.add(f"{label}-{number}-{index}", ids, output)
        while engine.busy():
            start = time.perf_counter_ns()
            if recorder is not None:
                recorder.started_ns = start
                recorder.steps.append(_Step(0, 0))
            engine.step()
            if recorder is not None:
                recorder.current().wall_us = (time.perf_counter_ns() - start) / 1e3


@contextmanager
def _recording(engine: CpuEngine) -> Generator[_Recorder]:
    """Wrap what belongs to the model: its forward pass, the logits, and the greedy choice (operations all)."""
    from vllm.v1.sample.sampler import Sampler

    recorder = _Recorder()
    runner = engine.runner
    forward, logits, greedy = runner._model_forward, runner.model.compute_logits, Sampler.greedy_sample
    schedule = engine.core.scheduler.schedule

    def scheduled() -> Any:
        output = schedule()
        step = recorder.current()
        step.requests, step.tokens = len(output.num_scheduled_tokens), output.total_num_scheduled_tokens
        return output

    def timed(function: Callable[..., Any], *, first: bool) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter_ns()
            result = function(*args, **kwargs)
            step = recorder.current()
            step.model_us += (time.perf_counter_ns() - start) / 1e3
            if first:
                step.before_us = (start - recorder.started_ns) / 1e3
            return result

        return call

    engine.core.scheduler.schedule = scheduled
    runner._model_forward = timed(forward, first=True)
    runner.model.compute_logits = timed(logits, first=False)
    Sampler.greedy_sample = staticmethod(timed(greedy, first=False))
    try:
        yield recorder
    finally:
        engine.core.scheduler.schedule = schedule
        runner._model_forward, runner.model.compute_logits = forward, logits
        Sampler.greedy_sample = staticmethod(greedy)


# -- storing ---------------------------------------------------------------------------------------------------------


def _store_steps(database: Database, environment: Any, steps: Sequence[_Step]) -> int:
    taken = 0
    for point in wanted_points()["host_before"]:
        shape = point.axes["R"], point.axes["T"]
        alike = [step for step in steps if (step.requests, step.tokens) == shape]
        before = tuple(step.before_us for step in alike)
        after = tuple(step.wall_us - step.before_us - step.model_us for step in alike)
        for signature, values in (("host_before", before), ("host_after", after)):
            taken += _store(database, database.claim(signature, environment, point), values)
    return taken


def _store_dispatch(
    database: Database,
    environment: Any,
    steps: Sequence[_Step],
    operations: Sequence[Operation],
    alone_us: dict[str, float],
) -> int:
    """Model time of full decode steps less that of the operations by themselves."""
    together_us = sum(operation.count * alone_us[operation.signature] for operation in operations)
    point = Point.of(N=sum(operation.count for operation in operations))
    values = tuple(
        step.model_us - together_us for step in steps if (step.requests, step.tokens) == (_DECODE, _DECODE)
    )
    return _store(database, database.claim("host_dispatch", environment, point), values)


def _store(database: Database, claim: Claim | None, values: tuple[float, ...]) -> int:
    if claim is None:
        return 0
    if not values:
        database.record_failed(claim, "the engine ran no step of this shape")
        return 0
    return int(database.record_ok(claim, Samples(values)))
