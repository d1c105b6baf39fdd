"""The platforms that dooly knows more about than their names: processors, and one row for each GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["PLATFORMS", "PlatformSpec", "Recovery", "gpu_of"]


@dataclass(frozen=True)
class Recovery:
    """How a GPU under its power limit forgets what it did; measured on an H200 (2026-11-29).

    After 0.4 s of products a pause of 10 ms gives back half of what the limit takes, one of 20 ms nearly all; products
    of 20 ms with pauses of 5, 10 and 20 ms take 1.08, 1.02 and 1.00 of their time, with 20 and 60 ms of decoding in
    place of the pauses 1.07 and 1.00; decoding takes up to 1.03.

    Attributes:
        idle_us, light_us: in so long without work, or with light steps, all but 1/e of what was done is forgotten.
        light_share: share that light steps lose of what products lose by lower clocks: they wait for memory.
        most_us: more work leaves the clocks where they are.
        fewest_tokens: steps of fewer are light: those of 128 rows lose 4 % in the end, those of 32 nothing.
    """

    idle_us: float = 14_000.0
    light_us: float = 40_000.0
    light_share: float = 0.2
    most_us: float = 100_000.0
    fewest_tokens: int = 256


@dataclass(frozen=True)
class PlatformSpec:
    """A machine as the engine's code selection sees it, and what is known of its speed.

    Attributes:
        device_name, capability, memory_bytes, processors: what an NVIDIA platform answers; empty for a CPU.
        tflops, gbs: peaks of the data sheet: dense bf16 products, TFLOP/s; memory, GB/s.
        chip: GPUs of one chip lend each other what memory does not bound; "" for no such GPU.
        product_time: time of large products, in that of the chip's fastest board.
        recovery: from its power limit.
    """

    device_name: str = ""
    capability: tuple[int, int] = (0, 0)
    memory_bytes: int = 0
    processors: int = 0
    tflops: float = 0.0
    gbs: float = 0.0
    chip: str = ""
    product_time: float = 1.0
    recovery: Recovery = field(default_factory=Recovery)

    @property
    def is_cuda(self) -> bool:
        """Whether the engine runs its CUDA code there."""
        return bool(self.device_name)


PLATFORMS: Mapping[str, PlatformSpec] = {
    "cpu": PlatformSpec(),
    # Of products of more than 512 rows in 16 bits 1.03 is the median over 178 points that both boards were measured at,
    # the H100 at 1,900 MHz and more; half of them lie between 1.02 and 1.05.
    "h100": PlatformSpec("NVIDIA H100 80GB HBM3", (9, 0), 80 << 30, 132, 989.4, 3350.0, "GH100", product_time=1.03),
    "h200": PlatformSpec("NVIDIA H200", (9, 0), 141 << 30, 132, 989.4, 4800.0, "GH100"),
}


def gpu_of(device: str) -> PlatformSpec:
    """The row of a device by the name that its driver gives; one without any facts where there is none."""
    found = (spec for name, spec in PLATFORMS.items() if spec.is_cuda and name in device.lower())
    return next(found, PlatformSpec())
