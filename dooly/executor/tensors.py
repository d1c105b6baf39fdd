"""Tensors to measure with: random values that are cheap to make, and enough copies to find weights out of the cache."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dooly.hardware.machine import Machine
from dooly.ir import TensorType
from dooly.ir.expr import evaluate

if TYPE_CHECKING:
    import torch

__all__ = ["DTYPES", "copies_for", "dtype_of", "fill_random", "need_memory", "random_tensor", "shape_of"]

DTYPES: dict[str, str] = {
    "bf16": "bfloat16",
    "f16": "float16",
    "f32": "float32",
    "f64": "float64",
    "i64": "int64",
    "i32": "int32",
    "i16": "int16",
    "i8": "int8",
    "u8": "uint8",
    "bool": "bool",
    "f8e4m3": "float8_e4m3fn",
    "f8e5m2": "float8_e5m2",
}
"""Names of element types in the IR and in torch."""

_MOST_COPIES = 64
_TILE = 1 << 16


def dtype_of(name: str) -> "torch.dtype":
    """torch.dtype of an IR element type."""
    import torch

    found: Any = getattr(torch, DTYPES[name])
    return found


def shape_of(type_: TensorType, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Concrete shape once each request symbol has its size."""
    return tuple(int(evaluate(dim, sizes)) for dim in type_.shape)


def copies_for(weight_bytes: int, machine: Machine) -> int:
    """How many copies of a weight to rotate through, so that each call finds its weight out of the last-level cache.

    Tiny weights stop at 64 copies; there the launch, not the memory, decides.
    """
    return max(2, min(_MOST_COPIES, math.ceil(1.5 * machine.cache_bytes / max(weight_bytes, 1)) + 1))


def need_memory(n_bytes: int, machine: Machine) -> None:
    """Refuse before the operating system kills the process.

    Raises:
        MemoryError: `n_bytes` is more than half of the device's memory.
    """
    if n_bytes > machine.memory_bytes // 2:
        raise MemoryError(f"needs {n_bytes / 2**30:.1f} GiB, more than half of {machine.memory_bytes / 2**30:.1f} GiB")


def random_tensor(shape: tuple[int, ...], dtype: str, seed: int = 0, device: str = "cpu") -> "torch.Tensor":
    """Values of about unit size, at memory speed: one random tile repeated."""
    import torch

    tensor = torch.empty(shape, dtype=dtype_of(dtype), device=device)
    fill_random(tensor, seed)
    return tensor


def fill_random(tensor: "torch.Tensor", seed: int = 0) -> None:
    """Values as in `random_tensor`, over all of the memory that the tensor is a view of, without any more of it."""
    import torch

    count = tensor.untyped_storage().nbytes() // tensor.itemsize
    if count == 0:
        return
    flat = tensor.as_strided((count,), (1,), 0)
    generator = torch.Generator(tensor.device).manual_seed(seed)
    tile = torch.randn(min(count, _TILE), generator=generator, device=tensor.device).to(tensor.dtype)
    whole = count - count % len(tile)
    flat[:whole].view(-1, len(tile)).copy_(tile)
    flat[whole:].copy_(tile[: count - whole])
