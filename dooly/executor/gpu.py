"""A GPU as NVML and torch describe it, and its clocks while it works."""

import importlib
from dataclasses import dataclass
from typing import Any

from dooly.capture.platforms import PLATFORMS
from dooly.engine import driver_version, installed
from dooly.errors import ProfileError
from dooly.executor.topology import links_between, settings

__all__ = ["Gauge", "Reading", "gpu_facts"]

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


@dataclass(frozen=True)
class Reading:
    """State of the GPU at one moment: clocks in MHz, temperature in degrees Celsius, power in W."""

    clock_mhz: float
    memory_mhz: float
    temperature_c: float
    power_w: float


class Gauge:
    """Reads the state of the GPU that torch uses; changes nothing."""

    def __init__(self) -> None:
        import torch

        self._nvml: Any = importlib.import_module("pynvml")
        self._nvml.nvmlInit()
        properties: Any = torch.cuda.get_device_properties(torch.cuda.current_device())
        self._handle = self._nvml.nvmlDeviceGetHandleByUUID(_uuid(properties))

    def read(self) -> Reading:
        """The present state."""
        nvml, handle = self._nvml, self._handle
        return Reading(
            clock_mhz=float(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
            memory_mhz=float(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM)),
            temperature_c=float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
            power_w=nvml.nvmlDeviceGetPowerUsage(handle) / 1e3,
        )
