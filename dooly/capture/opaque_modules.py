"""The modules behind opaque operations, described by themselves: attention, mixtures of experts and others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from enum import Enum
from typing import Any

import torch
from vllm.config import get_current_vllm_config
from vllm.utils.torch_utils import kv_cache_dtype_str_to_dtype

from dooly.capture import mixers
from dooly.capture.configint import size_of
from dooly.capture.schemes import scheme_of
from dooly.errors import CaptureError
from dooly.hardware.backends import backend_of
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

_CACHE_DTYPES = {"fp8": "f8e4m3", "fp8_e4m3": "f8e4m3", "fp8_e5m2": "f8e5m2"}
"""Element types of caches that the engine keeps as plain bytes."""

_KINDS = {
    "vllm.unified_attention_with_output": "attention",
    "vllm.unified_mla_attention_with_output": "mla_attention",
    "dooly.experts": "moe",
    **mixers.KINDS,
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
        found[layer] = Owner(layer, kind, attributes(**_described(kind, modules[layer], names)))
    attending = [layer for layer, owner in found.items() if _plans_ahead(owner)]
    if len({dict(found[layer].attrs)["window"] for layer in attending}) > 1:
        found |= {layer: _planned_per_layer(found[layer]) for layer in attending}
    return tuple(found.values())


def _plans_ahead(owner: Owner) -> bool:
    """Whether one plan of the kernel's tiles may serve all layers of a step, where their windows are alike."""
    return owner.kind == "attention" and backend_of(dict(owner.attrs)["backend"]).tiles_planned_once


def _planned_per_layer(owner: Owner) -> Owner:
    return replace(owner, attrs=attributes(**dict(owner.attrs), planned_per_layer=True))


def _described(kind: str, module: Any, names: Mapping[int, str]) -> dict[str, object]:
    describe = _DESCRIBE.get(kind)
    return describe(module, names) if describe else mixers.describe(kind, module, names[id(module)], DTYPES)


def _attention(module: Any, _: Mapping[int, str]) -> dict[str, object]:
    implementation = module.impl
    return {
        "heads": size_of(module.num_heads),
        "kv_heads": size_of(module.num_kv_heads),
        "head_size": size_of(module.head_size),
        "window": None if module.sliding_window is None else size_of(module.sliding_window),
        "soft_cap": float(getattr(implementation, "logits_soft_cap", None) or 0) or None,
        "kv_dtype": _CACHE_DTYPES.get(module.kv_cache_dtype) or DTYPES[module.kv_cache_torch_dtype],
        "backend": module.attn_backend.get_name(),
        "causal": module.attn_type == "decoder",
        "sinks": bool(module.has_sink),
    }


def _mla_attention(module: Any, names: Mapping[int, str]) -> dict[str, object]:
    prefill = module.prefill_backend
    return {
        "heads": size_of(module.num_heads),
        "latent": size_of(module.kv_lora_rank),
        "nope": size_of(module.qk_nope_head_dim),
        "rope": size_of(module.qk_rope_head_dim),
        "value": size_of(module.v_head_dim),
        "scale": float(module.scale),
        "kv_dtype": _CACHE_DTYPES.get(module.kv_cache_dtype)
        or DTYPES[kv_cache_dtype_str_to_dtype(module.kv_cache_dtype, get_current_vllm_config().model_config)],
        "backend": module.attn_backend.get_name(),
        "prefill_backend": None if prefill is None else prefill.get_name(),
        "weights": (f"{names[id(module.kv_b_proj)]}.weight",),
    }


def _moe(module: Any, names: Mapping[int, str]) -> dict[str, object]:
    experts = module.routed_experts
    path = names[id(experts)]
    grouped = bool(experts.use_grouped_topk) and int(experts.num_expert_group or 1) > 1
    correction, bias = experts.e_score_correction_bias, bool(experts.moe_config.has_bias)
    scheme = None if type(experts.quant_method).__name__.startswith("Unquantized") else _scheme()
    own = ("e_score_correction_bias", "router_bias")
    weights = _WEIGHTS if scheme is None else [name for name, _ in experts.named_parameters() if name not in own]
    described: dict[str, object] = {
        "experts": size_of(experts.global_num_experts),
        "top_k": size_of(experts.top_k),
        "hidden": size_of(experts.hidden_size),
        "intermediate": size_of(experts.intermediate_size_per_partition),
        "activation": str(getattr(experts.activation, "value", experts.activation)),
        "renormalize": bool(experts.renormalize),
        "scoring": experts.scoring_func,
        "backend": _backend(experts.quant_method),
        "weights": tuple(f"{path}.{name}" for name in weights if getattr(experts, name, None) is not None),
    }
    if scheme is not None:
        described["scheme"] = scheme
    if experts.local_num_experts != experts.global_num_experts:
        described["local_experts"] = size_of(experts.local_num_experts)
    if grouped:
        described |= {"groups": size_of(experts.num_expert_group), "top_groups": size_of(experts.topk_group)}
    if experts.routed_scaling_factor != 1.0:
        described["scaling"] = float(experts.routed_scaling_factor)
    if experts.swiglu_limit is not None:
        described["swiglu_limit"] = float(experts.swiglu_limit)
    if bias:
        described["bias"] = True
    if correction is not None:
        described |= {"correction_bias": True, "routing_weights": (names[id(correction)],)}
    return described


def _scheme() -> str | None:
    return scheme_of(get_current_vllm_config())


def _backend(method: Any) -> str | None:
    """The kernels that the engine chose for experts, whatever attribute says so."""
    named = (value for name, value in vars(method).items() if name.endswith("_backend") and isinstance(value, Enum))
    return next((str(value.value) for value in named), None)


_WEIGHTS = ("w13_weight", "w2_weight", "w13_bias", "w2_bias")

_DESCRIBE: Mapping[str, Callable[[Any, Mapping[int, str]], dict[str, object]]] = {
    "attention": _attention,
    "mla_attention": _mla_attention,
    "moe": _moe,
}
