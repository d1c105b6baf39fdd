"""Which facts of the machine change the latency of which operation.

The environment is split by the library that provides the kernel, so that an upgrade re-measures only what it changed.
On the CPU platform GEMM, attention and MoE kernels all come from the engine's own compiled library; the small
operations of a region come from torch, called through the engine's modules.  On a GPU a GEMM is cuBLAS's, called by
torch; a region is compiled by torch and Triton from the engine's native code; attention is its backend's library.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import fields

from dooly.database import Environment, PointSource, Record, Status, StoredOperation
from dooly.database.environment import Fact
from dooly.errors import ProfileError
from dooly.hardware.backends import backend_of
from dooly.hardware.gpus import PLATFORMS
from dooly.hardware.machine import Machine, kv_block_size
from dooly.host import is_host_part
from dooly.ir import Kind, Operation
from dooly.ir.opset import BETWEEN_STAGES

__all__ = ["at_home", "environment_for", "home_of", "host_environment", "machine_behind", "stored_machine"]


_BETWEEN_GPUS = ("all_reduce", "communication", "links", "nccl")
_OF_HOST = ("cores", "processor")
_OF_MACHINES = frozenset(field.name for field in fields(Machine)) - {"facts"}
_OF_POINTS = frozenset(("compiler", "kernels", "scheduling"))
"""Facts of an environment that are no `Machine.facts`: fields of a machine, and how a point was taken."""


def environment_for(operation: Operation, machine: Machine) -> Environment:
    """The environment in which points of this operation are stored when taken on this machine.

    Element types, KV-cache type and attention backend are part of the operation itself.
    """
    if machine.fact("source"):
        return _published(operation, machine)
    if machine.torch_device == "cuda":
        return _on_gpu(operation, machine)
    facts: dict[str, str | int] = {
        "platform": machine.platform,
        "device": machine.device,
        "isa": machine.isa,
        "threads": machine.threads,
        "torch": machine.torch,
        "mode": "eager",
    }
    if operation.kind in (Kind.GEMM, Kind.ATTENTION, Kind.RECURRENT, Kind.MOE, Kind.COLLECTIVE):
        facts["kernels"] = machine.engine
    else:
        facts["engine"] = machine.engine
    if operation.kind is Kind.ATTENTION:
        facts["block_size"] = kv_block_size(operation.attr("backend"), machine)
    return Environment.of(**facts)


def _published(operation: Operation, machine: Machine) -> Environment:
    """The environment of what others measured, which tell no more than this."""
    facts = {"platform": machine.platform, "device": machine.device, "mode": machine.mode}
    facts |= {name: machine.fact(name) for name in ("source", "method")}
    if operation.kind is not Kind.COLLECTIVE:
        facts["engine"] = machine.engine
    else:
        library = "communication" if operation.target == "all_reduce" else "nccl"
        facts[library] = machine.fact(library)
    return Environment.of(**facts)


def _on_gpu(operation: Operation, machine: Machine) -> Environment:
    facts: dict[str, str | int] = {
        "platform": machine.platform,
        "device": machine.device,
        "driver": machine.fact("driver"),
        "cuda": machine.fact("cuda"),
        "mode": machine.mode,
    }
    if operation.target == "scaled_linear":  # the engine's own kernels
        facts["engine"] = machine.engine
    elif operation.kind is Kind.GEMM:
        facts |= {"torch": machine.torch, "cublas": machine.fact("cublas")}
    elif operation.kind is Kind.ATTENTION:
        facts |= {"engine": machine.engine, "block_size": kv_block_size(operation.attr("backend"), machine)}
        facts |= _backend_library(operation.attr("backend"), machine)
    elif operation.kind is Kind.COLLECTIVE:
        if operation.target in BETWEEN_STAGES:
            facts["mode"] = "eager"
        facts["engine"] = machine.engine
        facts |= {name: machine.fact(name) for name in _BETWEEN_GPUS}
    elif operation.kind is Kind.MOE:
        facts |= {"engine": machine.engine, "triton": machine.fact("triton")}
    else:
        compiler = "inductor" if machine.mode == "graph" else "none"
        facts |= {"engine": machine.engine, "torch": machine.torch, "triton": machine.fact("triton")}
        facts |= {"compiler": compiler}
    if operation.kind not in (Kind.GEMM, Kind.COLLECTIVE) and machine.fact("caches"):
        facts["caches"] = machine.fact("caches")
    if operation.kind in (Kind.GEMM, Kind.MOE) and machine.fact("clocks"):
        facts["clocks"] = machine.fact("clocks")
    return Environment.of(**facts)


def _backend_library(backend: object, machine: Machine) -> dict[str, str]:
    """The library that an attention backend takes its kernels from; FlashAttention is the engine's own."""
    name = backend_of(backend).library
    return {name: machine.fact(name)} if name else {}


def host_environment(machine: Machine) -> Environment:
    """The environment of host time: the interpreter and the engine's Python code on this host's processor."""
    return Environment.of(
        platform=machine.platform,
        host=machine.host,
        device=machine.device,
        threads=machine.threads,
        python=machine.python,
        torch=machine.torch,
        engine=machine.engine,
        mode=machine.mode,
        scheduling="sync",
        **({name: machine.fact(name) for name in _OF_HOST} if machine.torch_device == "cuda" else {}),
    )


def home_of(stored: StoredOperation, machine: Machine) -> Environment:
    """The environment of an operation, or of a part of host time, as the engine runs it on this machine."""
    if is_host_part(stored.signature):
        return host_environment(machine)
    return environment_for(stored.parsed(), machine)


def at_home(records: Iterable[Record], machine: Machine) -> Iterator[Record]:
    """Yield records taken as the engine does it on this machine: not collectives by other ways, or warm caches."""
    homes: dict[str, Environment] = {}
    for record in records:
        stored = record.operation
        if stored.signature not in homes:
            homes[stored.signature] = home_of(stored, machine)
        if record.environment == homes[stored.signature]:
            yield record


def stored_machine(database: PointSource, platform: str, cores: str | None = None) -> Machine:
    """The GPU machine whose points the database holds: `environment_for` of it gives their environments.

    Where several machines of the platform were measured, it is the one that `machine_behind` finds.  What others
    published counts where nothing was measured, or where it is asked for; never beside each other.

    Args:
        platform: ``b200``, or ``b200@SOURCE`` for what a source published of it; the start of its name will do.
        cores: of the host that is wanted, if host time was measured on one of so many.

    Raises:
        ProfileError: not a GPU, or nothing of it is stored.
    """
    name, _, source = platform.partition("@")
    spec = PLATFORMS.get(name)
    if spec is None or not spec.is_cuda:
        known = ", ".join(name for name, each in PLATFORMS.items() if each.is_cuda)
        raise ProfileError(f"--platform {platform}: expected one of {known}; leave it out for this machine")
    here = [each for each in database.environments() if each.get("platform") == name]
    homes = {each for each in here if each.source.startswith(source) and bool(each.source) == bool(source)}
    points = _good_points(database, homes)
    if not points and not source:
        points = _good_points(database, {each for each in here if each.source})
    if not points:
        raise ProfileError(
            f"{database.place}: nothing measured on {platform} is stored, and none of it ships; run `dooly profile` on "
            "one and `dooly db merge` its database into this one, or add what others published of it with "
            "`dooly db import --foreign`"
        )
    if cores is not None and any(each.get("cores") == cores for each in points):
        points = {each: count for each, count in points.items() if each.get("cores") in (None, cores)}
    return machine_behind(points, name)


def _good_points(database: PointSource, homes: Collection[Environment]) -> dict[Environment, int]:
    """How many points are measured in each of some environments that have any."""
    by_key, points = {each.key: each for each in homes}, Counter[Environment]()
    for row in database.summary(homes):
        if row.status is Status.OK:
            points[by_key[row.environment]] += row.points
    return dict(points)


def machine_behind(points: Mapping[Environment, int], platform: str) -> Machine:
    """The machine of the environment with most points, with every other environment that does not contradict it.

    The size of its cache is not stored and is 0.

    Args:
        points: good ones by environment, all of this platform; at least one.
        platform: a GPU.
    """
    spec = PLATFORMS[platform]
    facts: dict[str, Fact] = {}
    for each in sorted((each for each, count in points.items() if count), key=lambda each: (-points[each], each.json)):
        if all(facts.get(name, value) == value for name, value in each.facts):
            facts |= dict(each.facts)
    text = {name: str(value) for name, value in facts.items()}
    return Machine(
        platform=platform,
        host=text.get("host", ""),
        device=text["device"],
        isa=f"sm_{spec.capability[0]}{spec.capability[1]}",
        threads=int(text.get("threads", "0")),
        cache_bytes=0,
        memory_bytes=spec.memory_bytes,
        torch=text.get("torch", ""),
        engine=text.get("engine", ""),
        python=text.get("python", ""),
        block_size=int(text.get("block_size", "0")),
        mode="eager" if text["mode"] == "eager" else "graph",
        facts=tuple((name, text[name]) for name in sorted(text) if name not in _OF_MACHINES | _OF_POINTS),
    )
