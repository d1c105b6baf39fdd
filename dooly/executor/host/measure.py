"""Time of a real engine's step besides its operations, mostly host time; measured once per host and engine.

Pseudo operations hold it, so that it is stored, claimed and fitted as everything else:

``host_before``    {R, T, Rp}: schedule, prepare inputs, build attention metadata, until the model is called; Rp of the
                   R requests are prompts, where others decode beside them
``host_after``     {R, T, Rp}: after the model: wait for its tokens to be copied, update of the scheduler
``host_dispatch``  {N}: on a CPU a forward pass over N operations takes this much longer than they by themselves
``host_launch_full``, ``host_launch_piecewise``, ``host_launch_none``  {N, R}: on a GPU, queueing N operations and the
                   sampling of R requests: all operations as one CUDA graph, pieces around N attention operations as
                   graphs, all one by one
``host_lead``      {R}: until an idle device starts with a whole graph that it is given
``host_between``   {R}: until a device that is still at the step before starts with the next: the engine's own copies
``host_experts``   {N, R}: queueing N mixtures of experts, many kernels and much code, where all are launched one by one
``host_flashinfer``  {R}: queueing FlashInfer's attention of one layer where requests decode beside prompts, beyond that
                   of the load's backend: it makes two calls
``power_limit``    {U}: on a GPU, work of U us at full clocks, as its power limit lets it (`power_limit.py`)

What is left of the steps of a real engine when its device's own work is taken away depends on the model only through
the number of its operations, and of its mixtures of experts.
"""

import statistics
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from dooly.batch import MODES, GraphMode
from dooly.database import Claim, Database, Environment, Measurement, Point, PointSource, Samples
from dooly.engine.process import in_own_process
from dooly.engine.settings import one_line
from dooly.errors import FitError, ProfileError, SimulationError
from dooly.executor.host.engine import TimedStep, record
from dooly.executor.host.load import CONTEXT, DECODE, STEPS, HostLoad, load_for
from dooly.executor.host.power_limit import WORK_US, measure_power_limit
from dooly.executor.runners import make_runner
from dooly.executor.session import Unsupported, open_session
from dooly.executor.timing.cpu import Precision
from dooly.fit import Observation, fit_host
from dooly.hardware.environment import host_environment
from dooly.hardware.machine import Machine
from dooly.host import POWER_LIMIT, host_parts, launch_of
from dooly.ir import Kind, Operation, Program

__all__ = ["host_cost_s", "measure_host"]

_COST_S = {"cpu": 20.0, "cuda": 190.0}
_MORE_ON_GPU_S = {"host_experts": 160.0, "host_flashinfer": 70.0, POWER_LIMIT: 30.0}
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

    def depths(part: str) -> int:
        return len({point.axes.get("N") for point in known(part)})

    between = tuple(map(launch_of, MODES)) if on_gpu else ("host_dispatch",)
    whole = (
        all(set(load.points) <= set(known(part)) for part in _AROUND)
        and all(depths(part) >= len(load.depths) for part in between)
        and (not on_gpu or all(map(known, _DEVICE)))
    )
    engines = {"host_experts": len(load.mixtures)}
    more_s = sum(_MORE_ON_GPU_S[part] for part in _more(machine) if depths(part) < engines.get(part, 1))
    return more_s if whole else more_s + _COST_S[machine.torch_device]


def _more(machine: Machine) -> tuple[str, ...]:
    """Return the parts that are measured beside those of every host."""
    if machine.torch_device != "cuda":
        return ()
    return tuple(part for part in _MORE_ON_GPU_S if part != "host_flashinfer" or machine.fact("flashinfer"))


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
    marks = _claim_all(book, load, programs, machine)
    if not book.held:
        return
    deepest = max(folders)
    if book.holds(POWER_LIMIT):
        note("power limit")
        try:
            _store_power_limit(book, machine, [op for op in programs[deepest] if op.count == deepest])
        except ProfileError as error:  # no reason to leave the host out; a later run tries again
            note(str(error))

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
        if ("host_experts", Point.of(N=depth, R=DECODE)) not in book.held:
            continue
        note(f"host time: engine with {depth} layers of experts")
        given = model, load.settings(machine), tuple(load.warm_up()), tuple(load.prompts())
        steps = in_own_process(record, *given)
        others = sum(op.count for op in _operations(model, machine) if op.kind is not Kind.MOE)
        for requests, total_us in _beyond(book, "host_experts", steps, "NONE", others).items():
            _store(book, "host_experts", Point.of(N=depth, R=requests), total_us)
    if book.holds("host_flashinfer"):
        note("host time: engine with FlashInfer")
        depth = min(folders)
        given = folders[depth], load.settings(machine), tuple(load.warm_up()), tuple(load.arriving())
        try:
            steps = in_own_process(record, *given, backend="FLASHINFER")
        except (SimulationError, RuntimeError, MemoryError, OSError) as error:  # its kernels cannot be compiled, say
            note(f"host time with FlashInfer is left out: {one_line(error)}")
        else:
            mixed, layers = [step for step in steps if step.kind == "mixed"], _queued(programs[depth], "PIECEWISE")
            for requests, total_us in _beyond(book, "host_flashinfer", mixed, "PIECEWISE", layers).items():
                _store(book, "host_flashinfer", Point.of(R=requests), [each_us / layers for each_us in total_us])


def _claim_all(
    book: "_Claims", load: HostLoad, programs: Mapping[int, Sequence[Operation]], machine: Machine
) -> dict[int, tuple[str, Point]]:
    """Claim all that is known beforehand; for each depth the point that says whether its engine is still needed."""
    on_gpu = machine.torch_device == "cuda"
    marks: dict[int, tuple[str, Point]] = {}
    for signature in _AROUND:
        book.claim(signature, *load.points)
    for depth, program in programs.items():
        sizes = {"N": _queued(program), "R": DECODE} if on_gpu else {"N": _queued(program)}
        marks[depth] = ("host_launch_none" if on_gpu else "host_dispatch", Point.of(**sizes))
        book.claim(*marks[depth])
    if on_gpu:
        for signature in _DEVICE:
            book.claim(signature, Point.of(R=DECODE))
        book.claim("host_experts", *(Point.of(N=depth, R=DECODE) for depth in load.mixtures))
        if "host_flashinfer" in _more(machine):
            book.claim("host_flashinfer", Point.of(R=1 + DECODE))
        if not book.known(POWER_LIMIT):  # one curve is of one GPU
            book.claim(POWER_LIMIT, *(Point.of(U=work_us) for work_us in WORK_US))
    return marks


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

    Prompts that arrive beside requests that decode are of any size, so their shapes are claimed here.  What is left of
    a step after the model is a difference of clocks; below zero it is stored as the least that counts.
    """
    alike: dict[Point, list[TimedStep]] = {}
    for step in steps:
        alike.setdefault(_shape(step), []).append(step)
    for point, seen in alike.items():
        if "Rp" in point.axes:
            book.claim("host_before", point)
            book.claim("host_after", point)
        book.store("host_before", point, Samples(tuple(step.before_us for step in seen)))
        book.store("host_after", point, Samples(tuple(max(1.0, step.after_us) for step in seen)))


def _queued(operations: Sequence[Operation], mode: str = "NONE") -> int:
    """Operations that the host queues one by one in this mode; of a graph, all that are in it."""
    return sum(op.count for op in operations if mode != "PIECEWISE" or op.kind.stateful)


def _store_launch(
    book: _Claims, steps: Sequence[TimedStep], operations: Sequence[Operation], alone: Mapping[str, Samples]
) -> None:
    """Time to queue a step, by the way in which its kernels were launched and the number of its requests.

    Beside it stands what queueing the attention of a layer takes by itself: that of other models may take longer.
    Shapes come as they do, so points are claimed here; prompts that are served before decoding give few samples.
    """
    (attention,) = (alone[op.signature] for op in operations if op.kind.stateful)
    aside = tuple((name, us) for name, us in attention.aside if name == "queued_us")
    for mode in MODES:
        alike: dict[int, list[TimedStep]] = {}
        for step in steps:
            if step.mode == mode:
                alike.setdefault(step.requests, []).append(step)
        for requests, seen in alike.items():
            point = Point.of(N=_queued(operations, mode), R=requests)
            if len(seen) >= _FEWEST:
                _store(book, launch_of(mode), point, [step.launch_us for step in seen], aside)


def _store_device(book: _Claims, steps: Sequence[TimedStep]) -> None:
    """When a device starts with a whole graph: an idle one, and one that is still at the step before.

    An idle one by how much longer the step takes it.  Known only where the device is slower than the host, which has
    the next step queued by then.
    """
    whole = [step for step in steps if step.mode == "FULL"]
    for requests in sorted({step.requests for step in whole}):
        idle, busy = ([s for s in whole if s.requests == requests and s.overlapped is each] for each in (False, True))
        if min(len(idle), len(busy)) < _FEWEST:
            continue
        device_us = statistics.median(step.device_us for step in busy)
        if device_us <= statistics.median(step.before_us + step.launch_us + step.after_us for step in idle):
            continue
        _store(book, "host_lead", Point.of(R=requests), [max(1.0, step.device_us - device_us) for step in idle])
        between = [step.between_us for step in busy if step.between_us is not None]
        if len(between) >= _FEWEST:
            _store(book, "host_between", Point.of(R=requests), [max(1.0, each_us) for each_us in between])


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


def _beyond(
    book: _Claims, signature: str, steps: Sequence[TimedStep], mode: GraphMode, others: int
) -> dict[int, list[float]]:
    """us that queueing these steps takes beyond that of steps of the load itself, by requests; enough of each.

    Args:
        mode: how they were launched; steps of another count nothing.
        others: operations that the host queues one by one in either.

    Raises:
        ProfileError: the load itself was measured with too few of those.
    """
    part = launch_of(mode)
    try:
        usual = fit_host(part, map(Observation.of, book.known(part)))
    except FitError as error:
        raise ProfileError(f"host time: {signature} is not known: {error}") from error
    alike: dict[int, list[float]] = {}
    for step in (each for each in steps if each.mode == mode):
        usual_us, _ = usual.predict_one({"N": float(others), "R": float(step.requests)})
        alike.setdefault(step.requests, []).append(max(1.0, step.launch_us - usual_us))
    return {requests: seen for requests, seen in alike.items() if len(seen) >= _FEWEST}


def _store(
    book: _Claims, signature: str, point: Point, values_us: Iterable[float], aside: tuple[tuple[str, float], ...] = ()
) -> None:
    book.claim(signature, point)
    book.store(signature, point, Samples(tuple(values_us), aside=aside))


def _store_dispatch(
    book: _Claims, steps: Sequence[TimedStep], operations: Sequence[Operation], alone: Mapping[str, Samples]
) -> None:
    """Store what full decode steps take less what their operations take by themselves.

    Below zero is noise of the two timings; it is stored as the least positive time that makes sense.
    """
    alone_us = sum(op.count * statistics.median(alone[op.signature].undisturbed_us) for op in operations)
    decodes = tuple(step.device_us for step in steps if _shape(step) == Point.of(R=DECODE, T=DECODE))
    if decodes:
        together = statistics.median(Samples(decodes).undisturbed_us)
        aside = (("alone_us", alone_us), ("together_us", together))
        book.store(
            "host_dispatch", Point.of(N=_queued(operations)), Samples((max(1.0, together - alone_us),), aside=aside)
        )
