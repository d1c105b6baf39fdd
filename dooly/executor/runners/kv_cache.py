"""The KV cache of one attention layer, allocated as the engine's worker does."""

import math
from typing import Any

__all__ = ["allocate"]


def allocate(layer: Any, name: str, spec: Any, config: Any, blocks: int, device: str) -> Any:
    """A KV cache of so many blocks, shaped for the layer's backend; its content is not initialised.

    Args:
        layer: the engine's attention layer, registered as `name`.
        spec: what its `get_kv_cache_spec` says.
        config: the VllmConfig that it was built under.
    """
    try:
        from vllm.v1.worker.utils import allocate_kv_cache
    except ImportError:  # vLLM before 0.32 leaves the shape to the backend
        return _shaped_by_backend(layer.get_attn_backend(), spec, blocks, device)
    import torch
    from vllm.v1.attention.backends.utils import get_supported_kv_cache_layouts, resolve_kv_cache_layout
    from vllm.v1.core.kv_cache_utils import get_kv_cache_config_from_groups, get_kv_cache_groups

    supported = [layout.name for layout in get_supported_kv_cache_layouts([layer.get_attn_backend()])]
    layout = resolve_kv_cache_layout(config, [supported], [spec])
    config.cache_config.num_gpu_blocks_override = blocks
    groups = get_kv_cache_groups(config, {name: spec})
    plan = get_kv_cache_config_from_groups(config, groups, blocks * spec.page_size_bytes)
    layer.bind_kv_cache(allocate_kv_cache(plan, torch.device(device), layout, [spec.block_size])[name])
    return layer.kv_cache


def _shaped_by_backend(backend: Any, spec: Any, blocks: int, device: str) -> Any:
    import torch

    shape = backend.get_kv_cache_shape(blocks, spec.block_size, spec.num_kv_heads, spec.head_size)
    try:
        order = tuple(backend.get_kv_cache_stride_order())
    except (AttributeError, NotImplementedError):
        order = tuple(range(len(shape)))
    raw = torch.empty(math.prod(shape), dtype=spec.dtype, device=device)
    return raw.view([shape[axis] for axis in order]).permute([order.index(axis) for axis in range(len(order))])
