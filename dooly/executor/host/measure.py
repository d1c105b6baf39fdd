"""Time of a real engine's step besides its operations, mostly host time; measured once per host and engine.

Pseudo operations hold it, so that it is stored, claimed and fitted as everything else:

``host_before``    {R, T, Rp}: schedule, prepare inputs, build attention metadata, until the model is called; Rp of the
                   R requests are prompts, where others decode beside them
``host_after``     {R, T, Rp}: after the model: wait for its tokens to be copied, update of the scheduler
``host_dispatch``  {N}: on a CPU, a forward pass over N operations; aside, what they take by themselves
``host_launch_full``, ``host_launch_piecewise``, ``host_launch_none``  {N, R}: on a GPU, queueing N operations and the
                   sampling of R requests: all operations as one CUDA graph, pieces around N attention operations as
                   graphs, all one by one; {X} mixtures of experts beside them, which are many kernels and much code;
                   {Y} attention operations that are called twice, FlashInfer's where requests decode beside prompts
``host_lead``      {R}: an idle device with a whole graph that it is given; aside, what a busy one takes
``host_between``   {R}: until a device that is still at the step before starts with the next: the engine's own copies
``power_limit``    {U}: on a GPU, work of U us at full clocks, as its power limit lets it (`power_limit.py`)

The samples are the times of single steps as they were: what of them is an operation's, a request's or a mixture's is
decided when formulas are fitted, over all steps together.  They depend on the model only through the number of its
operations, and of its mixtures of experts.
"""

import statistics
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from dooly.batch import MODES, GraphMode
from dooly.database import Claim, Database, Environment, Measurement, Point, PointSource, Samples
from dooly.database.latency import LESS
from dooly.engine.process import in_own_process
from dooly.engine.settings import one_line
from dooly.errors import ProfileError, SimulationError
from dooly.executor.host.engine import TimedStep, record
from dooly.executor.host.load import CONTEXT, DECODE, STEPS, HostLoad, load_for
from dooly.executor.host.power_limit import WORK_US, measure_power_limit
from dooly.executor.runners import make_runner
from dooly.executor.session import Unsupported, open_session
from dooly.executor.timing.cpu import Precision
from dooly.hardware.environment import host_environment
from dooly.hardware.machine import Machine
from dooly.host import POWER_LIMIT, host_parts, launch_of
from dooly.ir import Kind, Operation, Program

__all__ = ["host_cost_s", "measure_host"]

_COST_S = {"cpu": 20.0, "cuda": 190.0}
_EXPERTS_S, _FLASHINFER_S, _POWER_LIMIT_S = 160.0, 70.0, 30.0
"""Rough wall seconds of the engines of several depths, and of what else is measured on a GPU; imports not included."""

_AROUND = host_parts()[:2]
_DEVICE = "host_lead", "host_between"
_FEWEST = 3
"""Samples that make a point of steps of one shape."""


def host_cost_s(database: PointSource, machine: Machine) -> float:
    """Rough wall seconds of measuring what is unknown of this machine's and engine's host time; 0 if nothing is."""
    environment, load = host_environment(machine), load_for(machine)
    on_gpu = machine.torch_device == "cuda"

    def known(part: str) -> list[Point]:
        return [measurement.point for measurement in database.points(part, environment)]

    def several(part: str, axis: str) -> int:
        return len({point.axes[axis] for point in known(part) if axis in point.axes})

    between = tuple(map(launch_of, MODES)) if on_gpu else ("host_dispatch",)
    whole = (
        all(set(load.points) <= set(known(part)) for part in _AROUND)
        and all(several(part, "N") >= len(load.depths) for part in between)
        and (not on_gpu or all(map(known, _DEVICE)))
    )
    cost_s = 0.0 if whole else _COST_S[machine.torch_device]
    if on_gpu and several(launch_of("NONE"), "X") < len(load.mixtures):
        cost_s += _EXPERTS_S
    if on_gpu and machine.fact("flashinfer") and not several(launch_of("PIECEWISE"), "Y"):
        cost_s += _FLASHINFER_S
    if on_gpu and not known(POWER_LIMIT):
        cost_s += _POWER_LIMIT_S
    return cost_s


def measure_host(database: Database, machine: Machine, note: Callable[[str], None] = lambda _: None) -> int:
    """Measure whatever of host time is missing and commit it; returns how many points were taken.

    Must not run while a session is open: it starts and stops engines.

    Args:
        note: told what is being done, for a progress display.

    Raises:
        SimulationError: the engine does not start.
        CaptureError: the model of the load cannot be captured.
        ProfileError: an operation of it cannot be run by itself here.
    """
    if not host_cost_s(database, machine):
        return 0
    book = _Claims(database, host_environment(machine))
    try:
        with tempfile.TemporaryDirectory(prefix="dooly-host-") as name:
            _measure(book, machine, Path(name), note)
    finally:
        book.release()
    return book.stored


def _measure(book: "_Claims", machine: Machine, folder: Path, note: Callable[[str], None]) -> None:
    """Start the engines of the load, one after the other, for whatever is missing; their models go into `folder`."""
    load, on_gpu = load_for(machine), machine.torch_device == "cuda"
    note("host time: operations of the models")
    folders = {depth: load.write_model(folder / f"layers-{depth}", depth) for depth in load.depths}
    mixtures = {depth: load.write_mixture(folder / f"experts-{depth}", depth) for depth in load.mixtures}
    programs = {depth: _operations(each, machine) for depth, each in folders.items()}
    with_experts = {depth: _operations(each, machine) for depth, each in mixtures.items()}
    _claim_around(book, load, machine)
    marks = {depth: _mark(book, program, machine) for depth, program in programs.items()}
    marks_of_experts = {depth: _mark(book, program, machine) for depth, program in with_experts.items()}
    twice = _mark(book, programs[min(folders)], machine, twice=True) if on_gpu and machine.fact("flashinfer") else None
    if not book.held:
        return
    deepest = max(folders)

    def wanted(depth: int) -> bool:
        """Whether an earlier run has not come so far."""
        return book.holds(*_AROUND, *(_DEVICE if depth == deepest else ())) or marks[depth] in book.held

    every = [op for depth in filter(wanted, folders) for op in programs[depth]]
    if on_gpu:
        every = [op for op in every if op.kind.stateful]
        alone = in_own_process(_alone, machine, every) if every else {}
    else:
        alone = _alone(machine, every)
    for depth, model in folders.items():
        if not wanted(depth):
            continue
        note(f"host time: engine with {depth} layers")
        given = model, load.settings(machine), tuple(load.warm_up()), tuple(load.workloads())
        if on_gpu:  # compiled code and graphs of an engine keep their part of the memory until its process ends
            steps = in_own_process(record, *given, tuple(load.overlapped()))
        else:
            steps = record(*given)
        one_by_one = [step for step in steps if not step.overlapped]
        _store_around(book, one_by_one)
        if on_gpu:
            _store_launch(book, one_by_one, programs[depth], alone)
            if depth == deepest:
                _store_device(book, steps)
        else:
            _store_dispatch(book, steps, programs[depth], alone)
    for depth, model in mixtures.items():
        if marks_of_experts[depth] not in book.held:
            continue
        note(f"host time: engine with {depth} layers of experts")
        given = model, load.settings(machine), tuple(load.warm_up()), tuple(load.prompts())
        steps = [step for step in in_own_process(record, *given) if step.mode == "NONE"]
        _store_launch(book, steps, with_experts[depth])
    if twice in book.held:
        note("host time: engine with FlashInfer")
        depth = min(folders)
        given = folders[depth], load.settings(machine), tuple(load.warm_up()), tuple(load.arriving())
        try:
            steps = in_own_process(record, *given, backend="FLASHINFER")
        except (SimulationError, RuntimeError, MemoryError, OSError) as error:  # its kernels cannot be compiled, say
            note(f"host time with FlashInfer is left out: {one_line(error)}")
        else:
            _store_launch(book, [step for step in steps if step.kind == "mixed"], programs[depth], twice=True)
    if book.holds(POWER_LIMIT):
        note("power limit")
        try:
            _store_power_limit(book, machine, [op for op in programs[deepest] if op.count == deepest])
        except ProfileError as error:  # no reason to leave the host out; a later run tries again
            note(str(error))


def _claim_around(book: "_Claims", load: HostLoad, machine: Machine) -> None:
    """Claim what every engine of the load has part in."""
    for signature in _AROUND:
        book.claim(signature, *load.points)
    if machine.torch_device == "cuda":
        for signature in _DEVICE:
            book.claim(signature, Point.of(R=DECODE))
        if not book.known(POWER_LIMIT):  # one curve is of one GPU
            book.claim(POWER_LIMIT, *(Point.of(U=work_us) for work_us in WORK_US))


def _mark(book: "_Claims", program: Sequence[Operation], machine: Machine, *, twice: bool = False) -> tuple[str, Point]:
    """Claim the point that says whether the engine with this model is still needed."""
    if machine.torch_device != "cuda":
        mark = "host_dispatch", Point.of(N=sum(op.count for op in program))
    elif twice:
        mark = launch_of("PIECEWISE"), _launched(program, "PIECEWISE", 1 + DECODE, twice=True)
    else:
        mark = launch_of("NONE"), _launched(program, "NONE", DECODE)
    book.claim(*mark)
    return mark


class _Claims:
    """The points of host time that this process measures, committed engine by engine."""

    def __init__(self, database: Database, environment: Environment) -> None:
        self._database, self._environment = database, environment
        self.held: dict[tuple[str, Point], Claim] = {}
        self.stored = 0

    def claim(self, signature: str, *points: Point) -> None:
        self._database.add_operation(signature, signature, f"pseudo operation {signature}")
        for point in points:
            if (signature, point) in self.held:
                continue
            claim = self._database.claim(signature, self._environment, point, retry_failed=True)
            if claim is not None:
                self.held[signature, point] = claim

    def known(self, signature: str) -> Sequence[Measurement]:
        """Return the points that the database has by now."""
        return self._database.points(signature, self._environment)

    def holds(self, *signatures: str) -> bool:
        """Whether any point of these is to be measured."""
        return any(signature in signatures for signature, _ in self.held)

    def store(self, signature: str, point: Point, samples: Samples) -> None:
        """Commit what was measured; nothing if another process holds this point or the engine ran no such step."""
        if samples.values_us and (signature, point) in self.held:
            self.stored += self._database.record_ok(self.held.pop((signature, point)), samples)

    def release(self) -> None:
        for claim in self.held.values():
            self._database.release(claim)


def _operations(folder: Path, machine: Machine) -> tuple[Operation, ...]:
    from dooly import passes
    from dooly.capture import capture

    return passes.run(Program((capture(folder, platform=machine.platform),)), passes.PIPELINE).operations


# -- the operations by themselves ------------------------------------------------------------------------------------


def _alone(machine: Machine, operations: Iterable[Operation]) -> dict[str, Samples]:
    """Each operation by itself, by signature: at the decode batch of the recorded steps; on a GPU attention of prompts.

    Raises:
        ProfileError: one cannot be run.
    """
    found: dict[str, Samples] = {}
    with open_session(machine) as session:
        for operation in operations:
            if operation.signature not in found:
                try:
                    trial = make_runner(operation, session).trial(_batch(operation, machine.torch_device))
                    found[operation.signature] = session.measure(trial, Precision.usual(machine.torch_device))
                except (Unsupported, RuntimeError, MemoryError, OSError) as error:
                    raise ProfileError(f"host time: {operation.name} of the load cannot run here: {error}") from error
    return found


def _batch(operation: Operation, device: str) -> Point:
    if operation.kind is Kind.ATTENTION:
        each = (CONTEXT, 0) if device == "cuda" else (1, CONTEXT + STEPS // 2)
        return Point.of_requests([each] * DECODE)
    return Point.of(**dict.fromkeys(operation.axes, DECODE))


# -- storing ---------------------------------------------------------------------------------------------------------


def _shape(step: TimedStep) -> Point:
    mixed = {"Rp": step.prompts} if 0 < step.prompts < step.requests else {}
    return Point.of(R=step.requests, T=step.tokens, **mixed)


def _store_around(book: _Claims, steps: Sequence[TimedStep]) -> None:
    """Store host time before and after the model, shape by shape.

    Prompts that arrive beside requests that decode are of any size, so their shapes are claimed here.
    """
    alike: dict[Point, list[TimedStep]] = {}
    for step in steps:
        alike.setdefault(_shape(step), []).append(step)
    for point, seen in alike.items():
        if "Rp" in point.axes:
            book.claim("host_before", point)
            book.claim("host_after", point)
        book.store("host_before", point, Samples(tuple(step.before_us for step in seen)))
        book.store("host_after", point, Samples(tuple(step.after_us for step in seen)))


def _launched(operations: Sequence[Operation], mode: GraphMode, requests: int, *, twice: bool = False) -> Point:
    """Shape of what the host queues in a step: operations one by one; of a graph, all that are in it.

    Args:
        twice: whether attention makes two calls.
    """
    attention = sum(op.count for op in operations if op.kind.stateful)
    mixtures = sum(op.count for op in operations if op.kind is Kind.MOE) if mode == "NONE" else 0
    others = attention if mode == "PIECEWISE" else sum(op.count for op in operations) - mixtures
    sizes = {"N": others, "R": requests, "X": mixtures, "Y": attention if twice else 0}
    return Point.of(**{name: size for name, size in sizes.items() if size})


def _store_launch(
    book: _Claims,
    steps: Sequence[TimedStep],
    operations: Sequence[Operation],
    alone: Mapping[str, Samples] | None = None,
    *,
    twice: bool = False,
) -> None:
    """Time to queue a step, by the way in which its kernels were launched and the number of its requests.

    Shapes come as they do, so points are claimed here; prompts that are served before decoding give few samples.

    Args:
        alone: attention by itself; what queueing it takes stands aside, since that of other models may take longer.
        twice: whether attention makes two calls in these steps.
    """
    samples = [alone[op.signature] for op in operations if op.kind.stateful] if alone else []
    aside = tuple((name, us) for each in samples for name, us in each.aside if name == "queued_us")
    for mode in MODES:
        alike: dict[int, list[TimedStep]] = {}
        for step in steps:
            if step.mode == mode and (mode != "FULL" or not twice):
                alike.setdefault(step.requests, []).append(step)
        for requests, seen in alike.items():
            if len(seen) >= _FEWEST:
                point = _launched(operations, mode, requests, twice=twice)
                _store(book, launch_of(mode), point, [step.launch_us for step in seen], aside)


def _store_device(book: _Claims, steps: Sequence[TimedStep]) -> None:
    """When a device starts with a whole graph: an idle one, and one that is still at the step before.

    Of an idle one the whole step is kept, aside what a busy one takes for it.  Known only where the device is slower
    than the host, which has the next step queued by then.
    """
    whole = [step for step in steps if step.mode == "FULL"]
    for requests in sorted({step.requests for step in whole}):
        idle, busy = ([s for s in whole if s.requests == requests and s.overlapped is each] for each in (False, True))
        if min(len(idle), len(busy)) < _FEWEST:
            continue
        device_us = statistics.median(step.device_us for step in busy)
        if device_us <= statistics.median(step.before_us + step.launch_us + step.after_us for step in idle):
            continue
        _store(book, "host_lead", Point.of(R=requests), [step.device_us for step in idle], ((LESS, device_us),))
        between = [step.between_us for step in busy if step.between_us is not None]
        if len(between) >= _FEWEST:
            _store(book, "host_between", Point.of(R=requests), between)


def _store_power_limit(book: _Claims, machine: Machine, layer: Sequence[Operation]) -> None:
    """Store how long the products of a layer take the GPU under its power limit.

    Raises:
        ProfileError: they cannot be run, or the GPU is slowed down by something else.
    """
    products = [op for op in layer if op.kind is Kind.GEMM]
    try:
        found = in_own_process(measure_power_limit, machine, products)
    except (Unsupported, RuntimeError, MemoryError, OSError) as error:
        raise ProfileError(f"power limit: the products of the load cannot run here: {error}") from error
    for point, samples in found.items():
        book.store(POWER_LIMIT, point, samples)


def _store(
    book: _Claims, signature: str, point: Point, values_us: Iterable[float], aside: tuple[tuple[str, float], ...] = ()
) -> None:
    book.claim(signature, point)
    book.store(signature, point, Samples(tuple(values_us), aside=aside))


def _store_dispatch(
    book: _Claims, steps: Sequence[TimedStep], operations: Sequence[Operation], alone: Mapping[str, Samples]
) -> None:
    """Store what full decode steps take, aside what their operations take by themselves."""
    alone_us = sum(op.count * statistics.median(alone[op.signature].undisturbed_us) for op in operations)
    decodes = [step.device_us for step in steps if _shape(step) == Point.of(R=DECODE, T=DECODE)]
    if decodes:
        _store(book, "host_dispatch", Point.of(N=sum(op.count for op in operations)), decodes, ((LESS, alone_us),))
