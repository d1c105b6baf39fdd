"""How the GPUs of this machine are connected, and what in the process environment decides how they communicate."""

import importlib
import os
from collections.abc import Iterable
from itertools import combinations
from typing import Any

__all__ = ["links_between", "settings"]

_ANCESTORS = {0: "one board", 10: "one PCIe switch", 20: "PCIe switches", 30: "one host bridge", 40: "one NUMA node"}
_NO_MULTICAST, _SYMMETRIC = "TORCH_SYMM_MEM_DISABLE_MULTICAST", "VLLM_ALLREDUCE_USE_SYMM_MEM"
_SWITCHES = ("NVSHMEM_DISABLE_NVLS", _NO_MULTICAST)
_PREFIXES = ("NCCL_", "VLLM_ALLREDUCE_", "VLLM_NCCL_", "VLLM_USE_NCCL_")
_TALK = ("NCCL_DEBUG", "VLLM_NCCL_SO_PATH")


def links_between(uuids: Iterable[str]) -> str:
    """The weakest connection between any two GPUs, as NVML has it: ``18 x NVLink 4``, or what joins them instead.

    Empty for a single GPU.
    """
    nvml: Any = importlib.import_module("pynvml")
    nvml.nvmlInit()
    try:
        handles = [nvml.nvmlDeviceGetHandleByUUID(uuid) for uuid in uuids]
        pairs = list(combinations(handles, 2))
        if not pairs:
            return ""
        if all(_status(nvml, *pair, nvml.NVML_P2P_CAPS_INDEX_NVLINK) for pair in pairs):
            links = min((_nvlinks(nvml, handle) for handle in handles), key=len)
            if links:
                return f"{len(links)} x NVLink {min(links)}"
        farthest = max(_ancestor(nvml, *pair) for pair in pairs)
        direct = all(_status(nvml, *pair, nvml.NVML_P2P_CAPS_INDEX_READ) for pair in pairs)
        return f"{_ANCESTORS.get(farthest, 'several NUMA nodes')}, {'direct' if direct else 'through the host'}"
    finally:
        nvml.nvmlShutdown()


def _status(nvml: Any, one: Any, other: Any, what: int) -> bool:
    """Whether two GPUs reach each other's memory in this way."""
    try:
        return nvml.nvmlDeviceGetP2PStatus(one, other, what) == nvml.NVML_P2P_STATUS_OK
    except nvml.NVMLError:  # not on this GPU, or not told to guests
        return False


def _nvlinks(nvml: Any, handle: Any) -> list[int]:
    """The version of each NVLink that is up."""
    found: list[int] = []
    for link in range(nvml.NVML_NVLINK_MAX_LINKS):
        try:
            if nvml.nvmlDeviceGetNvLinkState(handle, link) == nvml.NVML_FEATURE_ENABLED:
                found.append(int(nvml.nvmlDeviceGetNvLinkVersion(handle, link)))
        except nvml.NVMLError:  # this GPU has no such link
            break
    return found


def _ancestor(nvml: Any, one: Any, other: Any) -> int:
    try:
        return int(nvml.nvmlDeviceGetTopologyCommonAncestor(one, other))
    except nvml.NVMLError:
        return 50


def settings() -> str:
    """Variables that choose between ways of communicating, as ``NAME=value``, sorted; ``defaults`` if none is set.

    Not the one for symmetric memory where multicast is off: vLLM 0.26.0 does without it there, whatever that one says.
    """
    idle = (_SYMMETRIC,) if os.environ.get(_NO_MULTICAST) == "1" else ()
    chosen = [
        f"{name}={value}"
        for name, value in sorted(os.environ.items())
        if (name in _SWITCHES or name.startswith(_PREFIXES)) and not name.startswith(_TALK) and name not in idle
    ]
    return " ".join(chosen) or "defaults"
