"""How many layers of a model must be captured, and how often each captured layer stands for one of the model.

A layer's graph depends on its kind and on what it receives, so on the kind of the layer before it (the first receives
no residual).  The shortest prefix that shows every (previous kind, kind) pair of the model shows every distinct layer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import sympy

from dooly.ir.expr import Expr, symbol

__all__ = ["DERIVED", "LayerPlan", "layer_kinds", "plan_layers", "shorten"]


@dataclass(frozen=True)
class LayerPlan:
    """Capture ``len(counts)`` layers; captured layer ``i`` stands for ``counts[i]`` layers of the model."""

    counts: tuple[Expr, ...]

    @property
    def depth(self) -> int:
        """Number of layers to capture."""
        return len(self.counts)


def plan_layers(kinds: tuple[Hashable, ...]) -> LayerPlan:
    """The shortest prefix that covers all pairs, with counts that add up to ``Nl``.

    The layer that stands for most is counted as ``Nl`` minus the rest, so that models that differ in depth alone have
    equal graphs.

    >>> plan_layers(("dense",) * 32).counts
    (1, Nl - 1)
    >>> plan_layers(("dense", "dense", "dense", "moe", "moe", "moe", "moe")).counts
    (1, 1, 1, 1, Nl - 4)
    """
    pairs = list(zip((None, *kinds), kinds))
    missing = set(pairs)
    depth = 0
    while missing:
        missing.discard(pairs[depth])
        depth += 1
    total, last = Counter(pairs), {pair: index for index, pair in enumerate(pairs[:depth])}
    shown = Counter(pairs[:depth])
    counts = [total[pair] - shown[pair] + 1 if last[pair] == index else 1 for index, pair in enumerate(pairs[:depth])]
    most = max(range(depth), key=lambda index: (counts[index], index))
    expressions: list[Expr] = [sympy.Integer(count) for count in counts]
    expressions[most] = symbol("Nl") - sum(count for index, count in enumerate(counts) if index != most)
    return LayerPlan(tuple(expressions))


Rule = Callable[[Mapping[str, Any], int], Hashable]


def _listed(field: str) -> Rule:
    """The layer's entry of a list with one entry a layer."""

    def rule(config: Mapping[str, Any], index: int) -> Hashable:
        entries = config.get(field)
        return entries[index] if isinstance(entries, list | tuple) and len(entries) > index else None

    return rule


def _dense_first(config: Mapping[str, Any], index: int) -> Hashable:
    """DeepSeek: the first layers are dense, then one in ``moe_layer_freq`` is a mixture of experts."""
    first, frequency = config.get("first_k_dense_replace"), config.get("moe_layer_freq", 1)
    return None if first is None or isinstance(frequency, list) else index >= first and index % frequency == 0


def _sparse_step(config: Mapping[str, Any], index: int) -> Hashable:
    """Qwen MoE: one in ``decoder_sparse_step`` is a mixture of experts, except those listed."""
    step = config.get("decoder_sparse_step")
    return None if not step else index not in (config.get("mlp_only_layers") or ()) and (index + 1) % step == 0


def _window_pattern(config: Mapping[str, Any], index: int) -> Hashable:
    """Gemma 3 without ``layer_types``: each ``sliding_window_pattern``-th layer attends to everything."""
    pattern = config.get("sliding_window_pattern")
    return None if not pattern or config.get("layer_types") else (index + 1) % pattern == 0


def _periodic(kind: str) -> Rule:
    """Jamba: every ``period``-th layer, starting at ``offset``."""

    def rule(config: Mapping[str, Any], index: int) -> Hashable:
        period = config.get(f"{kind}_layer_period")
        return None if not period else index % period == config.get(f"{kind}_layer_offset", 0)

    return rule


DERIVED = ("layer_types", "layers_block_type", "no_rope_layers")
"""Fields with an entry a layer that configuration classes fill in when a config.json leaves them out."""

_RULES: tuple[Rule, ...] = (
    _listed("layer_types"),
    _listed("layers_block_type"),
    _listed("moe_layer_freq"),
    _listed("no_rope_layers"),
    _dense_first,
    _sparse_step,
    _window_pattern,
    _periodic("attn"),
    _periodic("expert"),
)


def layer_kinds(config: Mapping[str, Any]) -> tuple[Hashable, ...]:
    """One value a layer; layers with equal values are built alike.

    >>> layer_kinds({"num_hidden_layers": 3, "layer_types": ["sliding", "sliding", "full"]})[1:]
    (('sliding',), ('full',))
    """
    kinds = [tuple(rule(config, index) for rule in _RULES) for index in range(config["num_hidden_layers"])]
    used = [position for position in range(len(_RULES)) if any(kind[position] is not None for kind in kinds)]
    return tuple(tuple(kind[position] for position in used) for kind in kinds)


def shorten(config: Mapping[str, Any], depth: int) -> dict[str, Any]:
    """The configuration of the model's first ``depth`` layers: lists with one entry a layer are cut too."""
    layers = config["num_hidden_layers"]
    cut = {
        name: value[:depth]
        for name, value in config.items()
        if isinstance(value, list) and len(value) == layers and "layer" in name
    }
    return {**config, **cut, "num_hidden_layers": depth}
