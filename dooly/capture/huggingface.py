"""Hugging Face ``transformers`` models from a configuration alone, through ``torch.export``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import sympy
import torch
from transformers import AttentionInterface, AttentionMaskInterface, AutoConfig, AutoModelForCausalLM

from dooly.capture.build import explained
from dooly.capture.config import FIELDS, config_values
from dooly.capture.configint import ConfigInt, Facts
from dooly.capture.export import Exported, export_built
from dooly.capture.frontend import counted_ops
from dooly.capture.layers import plan_layers
from dooly.capture.parallel import experts_of
from dooly.capture.sizes import SizeRecorder
from dooly.capture.structure import keep_layers, layer_kinds, layers_path
from dooly.errors import CaptureError
from dooly.ir import Graph, normal, symbol
from dooly.ir.expr import Expr

__all__ = ["build_transformer", "export_config", "forward", "settings_of"]

_CAUSAL = "dooly_causal"
_TAKES = "--frontend export takes dense models with full attention, the engine's own frontend (vllm) all"


def export_config(name: str, config: Mapping[str, Any]) -> Graph:
    """Graph of one prompt of ``T`` tokens, logits of ``L`` of its rows, as ``transformers`` computes them.

    Attention is one causal ``scaled_dot_product_attention`` a layer, without a cache.

    Args:
        config: checked, as from ``resolve_model``.

    Raises:
        CaptureError: the library refuses the configuration, or its code cannot be exported: experts and recurrent
            layers, whose loops fix sizes, and attention with windows or soft caps, since
            ``scaled_dot_product_attention`` has neither.
    """
    if experts_of(config):
        raise CaptureError(f"{name}: transformers runs experts in a loop over them, which fixes their number; {_TAKES}")
    if any(config.get(field) for field in ("state_size", "mamba_d_state", "linear_num_key_heads")):
        raise CaptureError(f"{name}: transformers writes recurrent layers out chunk by chunk; {_TAKES}")
    known = settings_of(name, config)
    facts = Facts()
    values = {letter: value for letter, value in config_values(config).items() if letter in FIELDS.values()}
    if values.get("Nkv") == values.get("Nq"):
        values.pop("Nkv", None)  # another branch of the attention, which ties the two
    for field, letter in FIELDS.items():
        if isinstance(config.get(field), int) and field != "num_hidden_layers":
            setattr(known, field, ConfigInt(config[field], symbol(letter if letter in values else "Nq"), facts))
    recorder = SizeRecorder()
    with recorder:
        model = build_transformer(name, known, config)
    plan = plan_layers(layer_kinds(model))
    keep_layers(model, plan.layers)
    sizes: dict[str, tuple[Expr, ...]] = {}
    for key, tensor in (*model.named_parameters(), *model.named_buffers()):
        sizes[key] = recorder.sizes(tensor) or tuple(sympy.Integer(dim) for dim in tensor.shape)
        if key.endswith("inv_freq"):
            sizes[key] = (_frequencies(known, len(tensor), facts),)

    inner = {letter: value for letter, value in values.items() if letter != "Nl"}
    exported = Exported(model, forward(model), inner, facts, sizes, (known,))
    graph = export_built(name, exported, {"input_ids": ("i64", (1, "T")), "logits_rows": ("i64", ("L",))})
    ops = counted_ops(graph.ops, dict(zip(plan.layers, plan.counts)), layers_path(model))
    counts = {"Nl": values["Nl"], **plan.values}
    return replace(graph, ops=ops, config=(*graph.config, *counts.items()))


def settings_of(name: str, config: Mapping[str, Any]) -> Any:
    """The library's configuration object of a config.json.

    Raises:
        CaptureError: the library refuses it.
    """
    fields = {key: value for key, value in config.items() if key != "model_type"}
    with explained(name, "transformers refuses this configuration"):
        return AutoConfig.for_model(config["model_type"], **fields)


def build_transformer(name: str, settings: Any, config: Mapping[str, Any]) -> Any:
    """The library's model of a configuration object on the meta device, with attention as one operation.

    Raises:
        CaptureError: the library cannot build it.
    """
    AttentionInterface.register(_CAUSAL, _attention)
    AttentionMaskInterface.register(_CAUSAL, _no_mask)
    dtype = getattr(torch, str(config.get("torch_dtype", config.get("dtype", "bfloat16"))))
    with explained(name, "transformers cannot build this model"), torch.device("meta"):
        return AutoModelForCausalLM.from_config(settings, attn_implementation=_CAUSAL, dtype=dtype)


def forward(model: Any) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Logits of some rows of one prompt, without a cache."""

    def call(tokens: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return model(input_ids=tokens, logits_to_keep=rows, use_cache=False).logits

    return call


def _frequencies(config: Any, length: int, facts: Facts) -> Expr:
    """One frequency for each pair of rotated features; computed, so no factory function saw its size."""
    head = config.head_dim
    if not isinstance(head, ConfigInt):
        return sympy.Integer(length)
    if int(head) == 2 * length:
        facts.require(head.expr, sympy.Integer(2))
    return normal(head.expr * sympy.Rational(length, int(head)))


def _attention(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **options: Any
) -> tuple[torch.Tensor, None]:
    unknown = [name for name in ("sliding_window", "softcap") if options.get(name) is not None]
    if unknown:
        raise CaptureError(
            f"{type(module).__name__} has a {unknown[0]}, scaled_dot_product_attention has none; {_TAKES}"
        )
    result = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=options.get("scaling"), enable_gqa=True
    )
    return result.transpose(1, 2).contiguous(), None


def _no_mask(*_: Any, **__: Any) -> None:
    """The operation is causal by itself."""
