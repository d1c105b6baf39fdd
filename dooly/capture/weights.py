"""Parameters as the engine leaves them once a checkpoint is loaded: quantized, and in the layout its kernels want."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import Parameter

__all__ = ["as_loaded"]

_SCALES = ("q_scale", "k_scale", "v_scale", "prob_scale")


def as_loaded(model: torch.nn.Module) -> frozenset[str]:
    """Do to the parameters on the meta device what loading does; needs a ``SizeRecorder`` that is active.

    Returns names of matrices that the engine's kernels take transposed; here they keep one row per output.
    """
    transposed: set[str] = set()
    for name, module in model.named_modules():
        load = _LOAD.get(type(getattr(module, "quant_method", None)).__name__)
        if load is not None and load(module):
            transposed.add(f"{name}.weight")
    return frozenset(transposed)


def _per_tensor(layer: Any) -> bool:
    """One scale for all weights; activations are scaled by token, or by one number that the checkpoint has."""
    rows, columns = layer.output_size_per_partition, layer.input_size_per_partition
    static = getattr(layer, "input_scale", None) is not None
    layer.weight = _parameter(torch.empty(rows, columns, dtype=torch.float8_e4m3fn))
    layer.weight_scale = _parameter(torch.empty(1, dtype=torch.float32))
    layer.input_scale = _parameter(torch.empty((), dtype=torch.float32)) if static else None
    layer.quant_method.fp8_linear.logical_output_size = rows
    return True


def _checkpoint(layer: Any) -> bool:
    """Weights that are stored in fp8: with one scale, or with one for each block, which stay as they are."""
    if not layer.quant_method.block_quant:
        return _per_tensor(layer)
    layer.input_scale = None
    return False


def _cache_scales(layer: Any) -> bool:
    """Scales of the cache become plain numbers."""
    for name in _SCALES:
        if isinstance(getattr(layer, name, None), torch.Tensor):
            delattr(layer, name)
    return False


def _parameter(tensor: torch.Tensor) -> Parameter:
    return Parameter(tensor, requires_grad=False)


_LOAD: Mapping[str, Callable[[Any], bool]] = {
    "Fp8PerTensorOnlineLinearMethod": _per_tensor,
    "Fp8LinearMethod": _checkpoint,
    "Fp8KVCacheMethod": _cache_scales,
}
