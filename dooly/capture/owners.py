"""What the modules behind opaque operations say about themselves: attention and mixture of experts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from dooly.capture.configint import ConfigInt
from dooly.errors import CaptureError
from dooly.ir import Owner, attributes

__all__ = ["DTYPES", "opaque_kind", "owners"]

DTYPES: Mapping[torch.dtype, str] = {
    torch.bfloat16: "bf16",
    torch.float16: "f16",
    torch.float32: "f32",
    torch.float64: "f64",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.int16: "i16",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.bool: "bool",
    torch.float8_e4m3fn: "f8e4m3",
    torch.float8_e5m2: "f8e5m2",
}
"""Element types by the name that the IR uses."""

_KINDS = {
    "vllm.unified_attention_with_output": "attention",
    "vllm.moe_forward": "moe",
    "vllm.moe_forward_shared": "moe",
}


def opaque_kind(target: str) -> str | None:
    """Kind of module behind an operation that hides its work, or None if it hides nothing."""
    return _KINDS.get(target)


def owners(calls: Iterable[tuple[str, str]], modules: Mapping[str, Any], names: Mapping[int, str]) -> tuple[Owner, ...]:
    """One owner for each opaque call, given as ``(kind, layer name)``.

    Args:
        modules: the engine's modules by layer name.
        names: module paths by ``id`` of the module.

    Raises:
        CaptureError: no module of that layer name.
    """
    found: dict[str, Owner] = {}
    for kind, layer in calls:
        if layer not in modules:
            raise CaptureError(f"no module owns the {kind} operation of layer {layer!r}")
        found[layer] = Owner(layer, kind, attributes(**_DESCRIBE[kind](modules[layer], names)))
    return tuple(found.values())


def _attention(module: Any, _: Mapping[int, str]) -> dict[str, object]:
    implementation = module.impl
    return {
        "heads": _integer(module.num_heads),
        "kv_heads": _integer(module.num_kv_heads),
        "head_size": _integer(module.head_size),
        "window": None if module.sliding_window is None else _integer(module.sliding_window),
        "soft_cap": float(getattr(implementation, "logits_soft_cap", None) or 0) or None,
        "kv_dtype": DTYPES[module.kv_cache_torch_dtype],
        "backend": module.attn_backend.get_name(),
        "causal": module.attn_type == "decoder",
        "sinks": bool(module.has_sink),
    }


def _moe(module: Any, names: Mapping[int, str]) -> dict[str, object]:
    experts, shared = module.routed_experts, module.shared_experts
    path = names[id(experts)]
    return {
        "experts": _integer(experts.global_num_experts),
        "top_k": _integer(experts.top_k),
        "hidden": _integer(experts.hidden_size),
        "intermediate": _integer(experts.intermediate_size_per_partition),
        "activation": str(getattr(experts.activation, "value", experts.activation)),
        "renormalize": bool(experts.renormalize),
        "scoring": experts.scoring_func,
        "gate_inside": module.gate is not None,
        "shared_inside": shared is not None,
        "w13": f"{path}.w13_weight",
        "w2": f"{path}.w2_weight",
    }


_DESCRIBE: Mapping[str, Callable[[Any, Mapping[int, str]], dict[str, object]]] = {"attention": _attention, "moe": _moe}


def _integer(value: int) -> object:
    return value.expr if isinstance(value, ConfigInt) else int(value)
