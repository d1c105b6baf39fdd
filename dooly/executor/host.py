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
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from dooly.batch import HOST_PARTS
from dooly.database import Claim, Database, Environment, Point, Samples
from dooly.engine import EngineSettings
from dooly.errors import ProfileError
from dooly.executor.environment import host_environment
from dooly.executor.host_engine import Step, Workload, record
from dooly.executor.machine import Machine
from dooly.executor.runners import make_runner
from dooly.executor.session import Unsupported, open_session
from dooly.executor.timing import Precision
from dooly.ir import Kind, Operation, Program

__all__ = ["HOST_COST_S", "measure_host", "missing_host_points"]

HOST_COST_S = 20.0
"""Rough wall seconds of measuring host time, imports not included."""

_DEPTHS = (2, 5, 8)
_REQUESTS, _TOKENS = 16, 512
_DECODE = 4
_CONTEXT = 32
_STEPS = 24
_REPEATS = 7

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
    "torch_dtype": "float32",
    "tie_word_embeddings": False,
}


def _decode(count: int = _DECODE) -> Workload:
    return ((_CONTEXT, _STEPS),) * count


def _decodes() -> tuple[Workload, ...]:
    return tuple(_decode(count) for count in (1, _DECODE, _REQUESTS))


def _prefills() -> tuple[Workload, ...]:
    shapes = ((1, 64), (1, _TOKENS), (4, _TOKENS // 4), (_REQUESTS, _TOKENS // _REQUESTS))
    return tuple(((prompt, 1),) * count for count, prompt in shapes)


def _step_groups() -> list[tuple[Workload, ...]]:
    """Workloads for each of `wanted_points`: a shape is committed as soon as it is measured."""
    return [(batch,) for batch in _decodes()] + [(batch,) * _REPEATS for batch in _prefills()]


def wanted_points() -> tuple[Point, ...]:
    """Shapes of steps to know `host_before` and `host_after` at."""
    decodes = tuple(Point.of(R=len(batch), T=len(batch)) for batch in _decodes())
    prefills = tuple(Point.of(R=len(batch), T=sum(prompt for prompt, _ in batch)) for batch in _prefills())
    return decodes + prefills


def missing_host_points(database: Database, machine: Machine) -> bool:
    """Whether any part of host time of this machine and engine is unknown."""
    environment = host_environment(machine)
    for signature in HOST_PARTS[:2]:
        have = {measurement.point for measurement in database.points(signature, environment)}
        if not have >= set(wanted_points()):
            return True
    return len(database.points("host_dispatch", environment)) < len(_DEPTHS)


def measure_host(database: Database, machine: Machine, note: Callable[[str], None] = lambda _: None) -> int:
    """Measure whatever of host time is missing and commit it; returns how many points were taken.

    Must not run while a session is open: it starts and stops engines.

    Args:
        note: told what is being done, for a progress display.

    Raises:
        SimulationError: the engine does not start.
        CaptureError: the tiny model cannot be captured.
        ProfileError: an operation of the tiny model cannot be run by itself here.
    """
    if not missing_host_points(database, machine):
        return 0
    environment = host_environment(machine)
    for signature in HOST_PARTS:
        database.add_operation(signature, signature, f"pseudo operation {signature}")
    book = _Claims(database, environment)
    try:
        for signature in HOST_PARTS[:2]:
            book.claim(signature, wanted_points())
        with tempfile.TemporaryDirectory(prefix="dooly-host-") as name:
            folders = {depth: _write_model(Path(name) / f"layers-{depth}", depth) for depth in _DEPTHS}
            note("host time: operations of the tiny models")
            programs = {depth: _operations(folder) for depth, folder in folders.items()}
            book.claim("host_dispatch", [_dispatch_point(program) for program in programs.values()])
            if not book.held:
                return 0
            alone_us = _alone(machine, [op for program in programs.values() for op in program])
            for depth, folder in folders.items():
                note(f"host time: engine with {depth} layers")
                first = depth == _DEPTHS[0]
                shapes = list(zip(wanted_points(), _step_groups(), strict=True)) if first else [(None, (_decode(),))]
                groups = [group for _, group in shapes]
                recorded = record(folder, _settings(machine), [((_TOKENS, 2),), _decode()[:2]], groups)
                for (point, _), steps in zip(shapes, recorded, strict=True):
                    if point is not None:
                        _store_steps(book, point, steps)
                    _store_dispatch(book, steps, programs[depth], alone_us)
    finally:
        book.release()
    return book.stored


class _Claims:
    """The points of host time that this process measures, each committed as soon as its steps were seen."""

    def __init__(self, database: Database, environment: Environment) -> None:
        self._database, self._environment = database, environment
        self.held: dict[tuple[str, Point], Claim] = {}
        self.stored = 0

    def claim(self, signature: str, points: Iterable[Point]) -> None:
        for point in points:
            claim = self._database.claim(signature, self._environment, point, retry_failed=True)
            if claim is not None:
                self.held[signature, point] = claim

    def store(self, signature: str, point: Point, samples: Samples) -> None:
        """Commit what was measured; nothing if another process holds this point or the engine ran no such step."""
        if samples.values_us and (signature, point) in self.held:
            self.stored += self._database.record_ok(self.held.pop((signature, point)), samples)

    def release(self) -> None:
        for claim in self.held.values():
            self._database.release(claim)


def _settings(machine: Machine) -> EngineSettings:
    return EngineSettings(
        max_num_seqs=_REQUESTS,
        max_num_batched_tokens=_TOKENS,
        max_model_len=2 * _TOKENS,
        block_size=machine.block_size,
    )


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
    """Latency of each operation at the decode batch of the recorded steps, us by signature."""
    latencies: dict[str, float] = {}
    with open_session(machine) as session:
        for operation in operations:
            if operation.signature not in latencies:
                try:
                    trial = make_runner(operation, session).trial(_decode_point(operation))
                except Unsupported as error:
                    raise ProfileError(
                        f"host time: {operation.name} of the tiny model cannot run here: {error}"
                    ) from error
                samples = session.measure(trial, Precision.usual(machine.torch_device)).undisturbed_us
                latencies[operation.signature] = statistics.median(samples)
    return latencies


def _decode_point(operation: Operation) -> Point:
    if operation.kind is Kind.ATTENTION:
        return Point.of_requests([(1, _CONTEXT + _STEPS // 2)] * _DECODE)
    return Point.of(**dict.fromkeys(operation.axes, _DECODE))


# -- storing ---------------------------------------------------------------------------------------------------------


def _store_steps(book: _Claims, point: Point, steps: Sequence[Step]) -> None:
    """Host time of the steps of one shape."""
    shape = point.axes["R"], point.axes["T"]
    alike = [step for step in steps if (step.requests, step.tokens) == shape]
    before = tuple(step.before_us for step in alike)
    after = tuple(step.wall_us - step.before_us - step.model_us for step in alike)
    book.store("host_before", point, Samples(before))
    book.store("host_after", point, Samples(after))


def _dispatch_point(operations: Sequence[Operation]) -> Point:
    return Point.of(N=sum(operation.count for operation in operations))


def _store_dispatch(
    book: _Claims, steps: Sequence[Step], operations: Sequence[Operation], alone_us: Mapping[str, float]
) -> None:
    """What full decode steps take less what their operations take by themselves.

    Below zero is noise of the two timings; it is stored as the least positive time that makes sense.
    """
    alone = sum(operation.count * alone_us[operation.signature] for operation in operations)
    decodes = tuple(step.model_us for step in steps if (step.requests, step.tokens) == (_DECODE, _DECODE))
    if decodes:
        together = statistics.median(Samples(decodes).undisturbed_us)
        aside = (("alone_us", alone), ("together_us", together))
        book.store("host_dispatch", _dispatch_point(operations), Samples((max(1.0, together - alone),), aside=aside))
