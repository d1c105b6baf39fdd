"""This machine: its processor, or its GPU where there is one."""

import os
import platform
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dooly.errors import ProfileError
from dooly.hardware.backends import backend_of
from dooly.hardware.processor import cpuinfo, processor_name
from dooly.hardware.software import engine_release, gpu_present, installed

__all__ = ["BLOCK_SIZE", "Machine", "Mode", "kv_block_size", "machine"]

_ISA_FLAGS = ("amx_tile", "avx512_bf16", "avx512f", "avx2", "asimd")
BLOCK_SIZE = {"cpu": 32, "cuda": 16}
"""Tokens in a KV-cache block: the engine's own choice on CUDA, and the size that suits its CPU kernels."""

Mode = Literal["eager", "graph"]
"""Whether kernels are launched one by one or replayed from a CUDA graph."""


@dataclass(frozen=True)
class Machine:
    """The facts that decide how fast an operation runs here.

    Fields:
        platform: as capture names it: ``cpu``, ``h100``, ``h200``.
        host: name of the machine; host time is its own, kernels are not.
        device: CPU model with family, model and stepping, or name of the GPU.
        isa: widest vector or matrix extension, or compute capability: it selects kernels.
        threads: OpenMP threads that kernels, or the host code around them, use.
        cache_bytes: last-level cache (L2 of a GPU); weights are rotated through more than this.
        memory_bytes: memory of the device.
        torch, engine, python: versions; `engine` names the package that ships vLLM and its kernels.
        block_size: tokens in one KV-cache block.
        mode: how kernels are launched while they are timed.
        facts: what else decides speed on a GPU, by name: driver, CUDA and kernel libraries, the host's processor
            and logical cores, how GPUs are connected and what is set for their communication, whether small operations
            find `caches` cold, and at what `clocks` large products begin.
        devices: GPUs that may work together, or groups of `threads` processors: so many ranks can be measured.
    """

    platform: str
    host: str
    device: str
    isa: str
    threads: int
    cache_bytes: int
    memory_bytes: int
    torch: str
    engine: str
    python: str
    block_size: int
    mode: Mode = "eager"
    facts: tuple[tuple[str, str], ...] = ()
    devices: int = 1

    @property
    def torch_device(self) -> Literal["cpu", "cuda"]:
        """The device that tensors live on, as torch calls it."""
        return "cpu" if self.platform == "cpu" else "cuda"

    def fact(self, name: str) -> str:
        """One of `facts`; empty if the machine has none of this name."""
        return dict(self.facts).get(name, "")


def kv_block_size(backend: object, machine: Machine) -> int:
    """Tokens in one KV-cache block under an attention backend: what the engine is started with, if it has a choice."""
    return backend_of(backend).block_size or machine.block_size


def machine(*, block_size: int | None = None, mode: Mode | None = None, custom_all_reduce: bool = True) -> Machine:
    """Look at this machine: its GPUs, of which the first counts, if it has any, else its processors.

    Args:
        block_size: tokens in one KV-cache block, as the engine will be started; by default the engine's own choice.
        mode: how kernels are launched; by default as the engine does (graphs on a GPU).
        custom_all_reduce: whether the engine may use its own all-reduce between GPUs, or NCCL only.

    Raises:
        ProfileError: torch or vLLM is not installed, the GPU is of an unknown kind, or CUDA graphs are asked of a CPU.
    """
    if gpu_present():
        from dooly.hardware.gpu import gpu_facts

        found = gpu_facts(_device())
        facts = {"all_reduce": "custom" if custom_all_reduce else "nccl", "clocks": "rested"}
        if mode != "eager":
            facts["caches"] = "cold"
        found["facts"] = tuple(sorted((*found["facts"], *facts.items())))
        return Machine(
            host=socket.gethostname(),
            threads=_threads(),
            torch=_needed("torch", installed("torch")),
            engine=_needed("vllm", engine_release()),
            python=platform.python_version(),
            block_size=block_size or BLOCK_SIZE["cuda"],
            mode=mode or "graph",
            **found,
        )
    if mode == "graph":
        raise ProfileError("there is no GPU here, so nothing can be timed under CUDA graphs")
    return Machine(
        platform="cpu",
        host=socket.gethostname(),
        device=_device(),
        isa=_isa(),
        threads=_threads(),
        cache_bytes=_last_level_cache(),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        torch=_needed("torch", installed("torch")).partition("+")[0],
        engine=_needed("vllm", engine_release()),
        python=platform.python_version(),
        block_size=block_size or BLOCK_SIZE["cpu"],
        devices=max(1, _processors() // _threads()),
    )


def _needed(package: str, found: str) -> str:
    if not found:
        raise ProfileError(
            f"{package} is not installed, so nothing can be measured here; run `pip install 'dooly[cpu]'`"
        )
    return found


def _device() -> str:
    info = cpuinfo()
    numbers = [f"{key} {info[key]}" for key in ("cpu family", "model", "stepping") if key in info]
    return ", ".join([processor_name(), *numbers])


def _isa() -> str:
    info = cpuinfo()
    flags = (info.get("flags") or info.get("Features") or "").split()
    return next((flag for flag in _ISA_FLAGS if flag in flags), platform.machine())


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _threads() -> int:
    """Count threads as torch does: what the user set, else the physical cores that this process may use."""
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    if wanted.isdigit() and int(wanted) > 0:
        return int(wanted)
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    return len({_siblings(cpu) for cpu in os.sched_getaffinity(0)})


def _siblings(cpu: int) -> str:
    """Hardware threads of the core that a processor belongs to; just itself where the platform does not say."""
    try:
        return Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)


def _last_level_cache() -> int:
    """Bytes of the largest cache of the first processor; 32 MiB where the platform does not say."""
    sizes: list[int] = []
    for entry in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = entry.read_text().strip()
        number, unit = text.rstrip("KMG"), text[-1:]
        if number.isdigit():
            sizes.append(int(number) * {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(unit, 1))
    return max(sizes, default=32 << 20)
