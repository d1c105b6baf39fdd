"""Which facts of the machine change the latency of which operation.

The environment is split by the library that provides the kernel, so that an upgrade re-measures only what it changed.
On the CPU platform GEMM, attention and MoE kernels all come from the engine's own compiled library; the small
operations of a region come from torch, called through the engine's modules.  On a GPU a GEMM is cuBLAS's, called by
torch; a region is compiled by torch and Triton from the engine's native code; attention is its backend's library.
"""

from dooly.database import Environment
from dooly.executor.machine import Machine
from dooly.ir import Kind, Operation

__all__ = ["environment_for", "host_environment"]


def environment_for(operation: Operation, machine: Machine) -> Environment:
    """The environment in which points of this operation are stored when taken on this machine.

    Element types, KV-cache type and attention backend are part of the operation itself.
    """
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
    if operation.kind in (Kind.GEMM, Kind.ATTENTION, Kind.RECURRENT, Kind.MOE):
        facts["kernels"] = machine.engine
    else:
        facts["engine"] = machine.engine
    if operation.kind is Kind.ATTENTION:
        facts["block_size"] = machine.block_size
    return Environment.of(**facts)


def _on_gpu(operation: Operation, machine: Machine) -> Environment:
    facts: dict[str, str | int] = {
        "platform": machine.platform,
        "device": machine.device,
        "driver": machine.fact("driver"),
        "cuda": machine.fact("cuda"),
        "mode": machine.mode,
    }
    if operation.kind is Kind.GEMM:
        facts |= {"torch": machine.torch, "cublas": machine.fact("cublas")}
    elif operation.kind is Kind.ATTENTION:
        facts |= {"engine": machine.engine, "block_size": machine.block_size}
        facts |= _backend_library(operation.attr("backend"), machine)
    elif operation.kind is Kind.MOE:
        facts |= {"engine": machine.engine, "triton": machine.fact("triton")}
    else:
        compiler = "inductor" if machine.mode == "graph" else "none"
        facts |= {"engine": machine.engine, "torch": machine.torch, "triton": machine.fact("triton")}
        facts |= {"compiler": compiler}
    return Environment.of(**facts)


def _backend_library(backend: object, machine: Machine) -> dict[str, str]:
    """The library that an attention backend takes its kernels from; FlashAttention is the engine's own."""
    name = {"FLASHINFER": "flashinfer", "TRITON_ATTN": "triton"}.get(str(backend))
    return {} if name is None else {name: machine.fact(name)}


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
        **({"processor": machine.fact("processor")} if machine.torch_device == "cuda" else {}),
    )
