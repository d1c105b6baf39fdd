"""How weights are quantized, in the words of the configuration that a checkpoint brings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, cast

import torch
from vllm.model_executor.layers.linear import LinearBase

from dooly.capture.weights import quantized_modules

__all__ = ["scheme_of", "schemes_of"]

_ASIDE = frozenset(
    (
        "exclude_modules",
        "ignore",
        "ignored_layers",
        "kv_cache_quant_algo",
        "kv_cache_scheme",
        "lm_head",
        "modules_to_not_convert",
        "total_num_heads",
        "total_num_kv_heads",
    )
)
"""Fields that say which modules a scheme is about, or how caches are stored: no kernel of a layer depends on them."""


class _Reads(dict[str, Any]):
    """A configuration that notes which of its fields are read."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        super().__init__(fields)
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.names.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """Return the value of a field, and note that it was read."""
        self.names.add(name)
        return super().get(name, default)


def schemes_of(model: torch.nn.Module, vllm_config: Any) -> dict[str, str]:
    """The scheme of each quantized linear layer by its path."""
    scheme = scheme_of(vllm_config)
    found = (path for path, module in quantized_modules(model) if isinstance(module, LinearBase))
    return {} if scheme is None else dict.fromkeys(found, scheme)


def scheme_of(vllm_config: Any) -> str | None:
    """Canonical JSON of what the engine builds quantized layers from, its method by name; None if weights are plain.

    Two checkpoints that run the same kernels have the same text: of what the checkpoint says, only those fields are
    kept that the engine's own reader of the method reads.
    """
    model_config = vllm_config.model_config
    if model_config.quantization is None:
        return None
    method = str(model_config.quantization)
    said = getattr(model_config.hf_config, "quantization_config", None) or {}
    text = {
        **_kept(_read_by_engine(vllm_config.quant_config, {**said, "quant_method": method})),
        "quant_method": method,
    }
    return json.dumps(text, sort_keys=True, separators=(",", ":"))


def _read_by_engine(quantization: Any, said: Mapping[str, Any]) -> Mapping[str, Any]:
    """Fields that the engine's reader takes from a configuration; all of them where it does not read it this way."""
    reads = _Reads(said)
    with suppress(Exception):  # some methods are not made from a checkpoint, and each says so in its own way
        type(quantization).from_config(reads)
        return {name: said[name] for name in reads.names & said.keys()}
    return said


def _kept(fields: Mapping[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, value in fields.items():
        if name not in _ASIDE and value is not None:
            kept[name] = _kept(cast("Mapping[str, Any]", value)) if isinstance(value, Mapping) else value
    return kept
