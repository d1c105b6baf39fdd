"""A GPU as NVML and torch describe it, and its clocks while it works."""

import importlib
import os
from dataclasses import dataclass
from typing import Any

from dooly.errors import ProfileError
from dooly.hardware.gpus import PLATFORMS
from dooly.hardware.software import driver_version, installed
from dooly.hardware.topology import links_between, settings

__all__ = ["Gauge", "Reading", "Slowed", "gpu_facts", "slowed_by"]

_PLATFORMS = {spec.device_name: name for name, spec in PLATFORMS.items() if spec.is_cuda}
_LIBRARIES = {
    "cublas": ("nvidia-cublas", "nvidia-cublas-cu13", "nvidia-cublas-cu12"),
    "triton": ("triton",),
    "flashinfer": ("flashinfer-python",),
    "nccl": ("nvidia-nccl-cu13", "nvidia-nccl-cu12"),
}


def gpu_facts(processor: str) -> dict[str, Any]:
    """Fields of `Machine` that describe the first GPU.

    Args:
        processor: model of the host's processor.

    Raises:
        ProfileError: dooly does not know this kind of GPU, or torch cannot use it.
    """
    import torch

    if not torch.cuda.is_available():
        raise ProfileError("this machine has a GPU but torch cannot use it; install torch for CUDA")
    properties: Any = torch.cuda.get_device_properties(0)
    if properties.name not in _PLATFORMS:
        raise ProfileError(f"the GPU here is {properties.name}; known: {', '.join(_PLATFORMS)}")
    facts = {"cuda": torch.version.cuda or "", "driver": driver_version(), "processor": processor}
    facts["cores"] = str(os.cpu_count())
    facts |= {name: found for name, packages in _LIBRARIES.items() if (found := installed(*packages))}
    devices = torch.cuda.device_count()
    facts["links"] = links_between(_uuid(torch.cuda.get_device_properties(index)) for index in range(devices))
    facts["communication"] = settings()
    return {
        "platform": _PLATFORMS[properties.name],
        "device": properties.name,
        "isa": f"sm_{properties.major}{properties.minor}",
        "cache_bytes": properties.L2_cache_size,
        "memory_bytes": properties.total_memory,
        "devices": devices,
        "facts": tuple(sorted(facts.items())),
    }


def _uuid(properties: Any) -> str:
    """A GPU's identity as NVML spells it: torch and NVML need not number them alike."""
    return f"GPU-{properties.uuid}"


_SLOWDOWNS = {0x20: "heat", 0x40: "heat", 0x80: "its power supply", 0x08: "its hardware"}
"""NVML's reasons of clocks below what is set that say something is wrong; the power cap, 0x4, is how a GPU works."""


class Slowed(ProfileError):
    """The GPU is slower than it should be, so what is measured on it now is not true."""


def slowed_by(reasons: int) -> str:
    """Return what slows the GPU down, from NVML's bits; empty if nothing does.

    >>> slowed_by(0x5), slowed_by(0x24), slowed_by(0x88)
    ('', 'heat', 'its power supply')
    """
    return next((words for bit, words in _SLOWDOWNS.items() if reasons & bit), "")


@dataclass(frozen=True)
class Reading:
    """State of the GPU at one moment.

    Attributes:
        clock_mhz, most_mhz, memory_mhz: of its multiprocessors, the most that they can have, of its memory.
        temperature_c: degrees Celsius.
        power_w: W.
        slowed_by: as of the function of that name.
    """

    clock_mhz: float
    most_mhz: float
    memory_mhz: float
    temperature_c: float
    power_w: float
    slowed_by: str = ""

    def __str__(self) -> str:
        return f"{self.clock_mhz:.0f} of {self.most_mhz:.0f} MHz at {self.temperature_c:.0f} degrees Celsius"


class Gauge:
    """Reads the state of a GPU, by default of the one that torch uses; changes nothing.

    Args:
        device: its number as torch counts.
    """

    def __init__(self, device: int | None = None) -> None:
        import torch

        self._nvml: Any = importlib.import_module("pynvml")
        self._nvml.nvmlInit()
        properties: Any = torch.cuda.get_device_properties(torch.cuda.current_device() if device is None else device)
        self._handle = self._nvml.nvmlDeviceGetHandleByUUID(_uuid(properties))

    def read(self) -> Reading:
        """The present state."""
        nvml, handle = self._nvml, self._handle
        return Reading(
            clock_mhz=float(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
            most_mhz=float(nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM)),
            memory_mhz=float(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM)),
            temperature_c=float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
            power_w=nvml.nvmlDeviceGetPowerUsage(handle) / 1e3,
            slowed_by=slowed_by(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)),
        )
