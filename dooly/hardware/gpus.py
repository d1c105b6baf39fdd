"""The platforms that dooly knows more about than their names: processors, and one row for each GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["PLATFORMS", "PlatformSpec"]


@dataclass(frozen=True)
class PlatformSpec:
    """A machine as the engine's code selection sees it.

    Attributes:
        backends: attention backends that may be asked for; the engine takes one that suits the model's layers.
        device_name, capability, memory_bytes, processors: what an NVIDIA platform answers; empty for a CPU.
    """

    backends: tuple[str, ...]
    device_name: str = ""
    capability: tuple[int, int] = (0, 0)
    memory_bytes: int = 0
    processors: int = 0

    @property
    def is_cuda(self) -> bool:
        """Whether the engine runs its CUDA code there."""
        return bool(self.device_name)


_CUDA_BACKENDS = ("FLASH_ATTN", "FLASHINFER", "TRITON_ATTN")

PLATFORMS: Mapping[str, PlatformSpec] = {
    "cpu": PlatformSpec(("CPU_ATTN", "CPU_MLA", "AMX_MLA")),
    "h100": PlatformSpec(_CUDA_BACKENDS, "NVIDIA H100 80GB HBM3", (9, 0), 80 << 30, 132),
    "h200": PlatformSpec(_CUDA_BACKENDS, "NVIDIA H200", (9, 0), 141 << 30, 132),
}
