"""The platforms that dooly knows more about than their names: processors, and one row for each GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["PLATFORMS", "PlatformSpec", "Recovery", "gpu_of", "platform_of"]


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
    # Not measured by dooly; memory as their drivers report it.  Data sheets: NVIDIA A100 80GB SXM; NVIDIA L40S; NVIDIA
    # RTX PRO 6000 Blackwell Server Edition (dense: a quarter of half of the 4 PFLOP/s in sparse FP4); NVIDIA Blackwell
    # (HGX B200, GB200 NVL72: eighths and 72nds); NVIDIA Blackwell Ultra (HGX B300, GB300 NVL72); NVIDIA Ada GPU
    # architecture, appendix (RTX 4090, sums in 32 bits).
    "a100": PlatformSpec("NVIDIA A100-SXM4-80GB", (8, 0), 80 << 30, 108, 312.0, 2039.0, "GA100"),
    "l40s": PlatformSpec("NVIDIA L40S", (8, 9), 46068 << 20, 142, 362.05, 864.0, "AD102"),
    "rtx-4090": PlatformSpec("NVIDIA GeForce RTX 4090", (8, 9), 24564 << 20, 128, 165.2, 1008.0, "AD102 GeForce"),
    "rtx-pro-6000": PlatformSpec(
        "NVIDIA RTX PRO 6000 Blackwell Server Edition", (12, 0), 97887 << 20, 188, 500.0, 1597.0, "GB202"
    ),
    "b200": PlatformSpec("NVIDIA B200", (10, 0), 180 << 30, 148, 2250.0, 7700.0, "GB100"),
    "b300": PlatformSpec("NVIDIA B300 SXM6 AC", (10, 3), 275040 << 20, 148, 2250.0, 7750.0, "GB110"),
    "gb200": PlatformSpec("NVIDIA GB200", (10, 0), 189471 << 20, 152, 2500.0, 8000.0, "GB100 Grace"),
    "gb300": PlatformSpec("NVIDIA GB300", (10, 3), 284208 << 20, 152, 2500.0, 8000.0, "GB110 Grace"),
    # Intel data sheet: 197 TOP/s in int8, half of that in bf16.  The engine's code for CUDA with FlashAttention stands
    # for its code for XPUs, which calls a kernel of that name; so the capability is that of such a GPU.
    "b60": PlatformSpec("Intel(R) Arc(TM) Pro B60 Graphics", (9, 0), 24 << 30, 20, 98.5, 456.0, "BMG-G21"),
}


def platform_of(device: str) -> str | None:
    """The platform of a device by the name that its driver gives; None where no row is meant.

    >>> platform_of("NVIDIA GB200"), platform_of("NVIDIA RTX PRO 6000 Blackwell Server Edition"), platform_of("Xeon")
    ('gb200', 'rtx-pro-6000', None)
    """
    words = device.lower().replace(" ", "-")
    found = [name for name, spec in PLATFORMS.items() if spec.is_cuda and name in words]
    return max(found, key=len, default=None)


def gpu_of(device: str) -> PlatformSpec:
    """The row of a device by the name that its driver gives; one without any facts where there is none."""
    name = platform_of(device)
    return PlatformSpec() if name is None else PLATFORMS[name]
