"""Which facts of the machine change the latency of which operation.

The environment is split by the library that provides the kernel, so that an upgrade re-measures only what it changed.
On the CPU platform GEMM, attention and MoE kernels all come from the engine's own compiled library; the small
operations of a region come from torch, called through the engine's modules.
"""

from dooly.database import Environment
from dooly.executor.machine import Machine
from dooly.ir import Kind, Operation

__all__ = ["environment_for", "host_environment"]


def environment_for(operation: Operation, machine: Machine) -> Environment:
    """The environment in which points of this operation are stored when taken on this machine.

    Element types, KV-cache type and attention backend are part of the operation itself.
    """
    facts: dict[str, str | int] = {
        "platform": machine.platform,
        "device": machine.device,
        "isa": machine.isa,
        "threads": machine.threads,
        "torch": machine.torch,
        "mode": "eager",
    }
    if operation.kind in (Kind.GEMM, Kind.ATTENTION, Kind.MOE):
        facts["kernels"] = machine.engine
    else:
        facts["engine"] = machine.engine
    if operation.kind is Kind.ATTENTION:
        facts["block_size"] = machine.block_size
    return Environment.of(**facts)


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
        mode="eager",
        scheduling="sync",
    )
