"""How many layers of a model must be captured, and how often each captured layer stands for one of the model.

A layer's graph depends on its kind and on what it receives, so on the kind of the layer before it (the first receives
no residual).  The shortest prefix that shows every (previous kind, kind) pair of the model shows every distinct layer.
It also ends as the model does, because what follows the last layer may be one piece of work with its end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import sympy

from dooly.ir.expr import Expr, normal, symbol, symbols_of

__all__ = ["DERIVED", "LayerPlan", "layer_kinds", "plan_layers", "shorten"]


@dataclass(frozen=True)
class LayerPlan:
    """Capture ``len(counts)`` layers; captured layer ``i`` stands for ``counts[i]`` layers of the model.

    Attributes:
        values: the symbols that the counts use beside ``Nl``: how many layers are of the second kind, the third and
            so on (``N2``, ``N3``, in order of first appearance), and where that leaves it open how many layers of kind
            ``b`` follow one of kind ``a``, also that (``N1to2``).
    """

    counts: tuple[Expr, ...]
    values: Mapping[str, int]

    @property
    def depth(self) -> int:
        """Number of layers to capture."""
        return len(self.counts)


def plan_layers(kinds: tuple[Hashable, ...]) -> LayerPlan:
    """The shortest prefix that covers all pairs and ends with a layer of the kind that the model ends with.

    Counts are expressions over the number of layers of each kind, so that models that differ in depth alone have equal
    graphs; together they are the number of layers.

    >>> plan_layers(("dense",) * 32).counts
    (1, Nl - 1)
    >>> plan_layers(("dense", "moe", "moe", "moe", "moe")).counts
    (1, 1, N2 - 1)
    >>> plan_layers(("sliding", "full") * 21)
    LayerPlan(counts=(1, 1, N2 - 1, N2 - 1), values={'N2': 21})
    """
    pairs = list(zip((None, *kinds), kinds))
    missing = set(pairs)
    depth = 0
    while missing or kinds[depth - 1] != kinds[-1]:
        missing.discard(pairs[depth])
        depth += 1
    totals, values = _totals(kinds)
    shown = Counter(pairs[:depth])
    last = {pair: index for index, pair in enumerate(pairs[:depth])}
    counts = [
        normal(totals[pair] - shown[pair] + 1) if last[pair] == index else sympy.Integer(1)
        for index, pair in enumerate(pairs[:depth])
    ]
    return LayerPlan(tuple(counts), values)


def _totals(kinds: tuple[Hashable, ...]) -> tuple[dict[tuple[Hashable, Hashable], Expr], dict[str, int]]:
    """How often each (previous kind, kind) pair occurs, over symbols, and the values of those symbols beside ``Nl``.

    As many layers of a kind come after some layer as there are, less the first; as many come before one, less the last.
    Where these balances tie the symbols to each other (alternating layers), the later kinds and then ``Nl`` stay.
    """
    number = {kind: index for index, kind in enumerate(dict.fromkeys(kinds), start=1)}
    layers = {kind: symbol(f"N{index}") for kind, index in number.items()}
    found = Counter(pairwise(kinds))
    pairs = {pair: symbol(f"N{number[pair[0]]}to{number[pair[1]]}") for pair in found}
    first, *others = layers.values()
    balance: list[Expr] = [sum(layers.values(), -symbol("Nl"))]
    for kind, count in layers.items():
        for side, end in ((1, kinds[0]), (0, kinds[-1])):
            balance.append(sum((s for pair, s in pairs.items() if pair[side] == kind), int(end == kind) - count))
    solution = cast(
        "tuple[Expr, ...]", next(iter(sympy.linsolve(balance, [*pairs.values(), first, symbol("Nl"), *others])))
    )
    totals: dict[tuple[Hashable, Hashable], Expr] = {(None, kinds[0]): sympy.Integer(1), **dict(zip(pairs, solution))}
    values = {str(symbol_): found[pair] for pair, symbol_ in pairs.items()}
    values |= {str(symbol_): kinds.count(kind) for kind, symbol_ in layers.items()}
    used = set().union(*(symbols_of(total) for total in totals.values()))
    return totals, {name: value for name, value in values.items() if name in used}


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
