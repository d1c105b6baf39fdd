"""How weights are quantized, in the words of the configuration that a checkpoint brings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

import torch
from vllm.model_executor.layers.linear import LinearBase

from dooly.capture.weights import quantized_modules

__all__ = ["scheme_of", "schemes_of"]

_ASIDE = frozenset(
    (
        "exclude_modules",
        "global_compression_ratio",
        "ignore",
        "ignored_layers",
        "kv_cache_quant_algo",
        "kv_cache_scheme",
        "modules_to_not_convert",
        "producer",
        "quant_method",
        "quantization_status",
        "version",
    )
)
"""Which modules it is not about, what made it, and what it says of caches: nothing that a layer's kernel depends on."""


def schemes_of(model: torch.nn.Module, vllm_config: Any) -> dict[str, str]:
    """The scheme of each quantized linear layer by its path."""
    scheme = scheme_of(vllm_config)
    found = (path for path, module in quantized_modules(model) if isinstance(module, LinearBase))
    return {} if scheme is None else dict.fromkeys(found, scheme)


def scheme_of(vllm_config: Any) -> str | None:
    """Canonical JSON of what the engine builds quantized layers from, its method by name; None if weights are plain."""
    model_config = vllm_config.model_config
    if model_config.quantization is None:
        return None
    said = getattr(model_config.hf_config, "quantization_config", None) or {}
    text = {**_kept(said), "quant_method": str(model_config.quantization)}
    return json.dumps(text, sort_keys=True, separators=(",", ":"))


def _kept(fields: Mapping[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, value in fields.items():
        if name not in _ASIDE and value is not None:
            kept[name] = _kept(cast("Mapping[str, Any]", value)) if isinstance(value, Mapping) else value
    return kept
