"""How many layers of a model must be captured, and how often each captured layer stands for one of the model.

A layer's graph depends on its kind and on what it receives, so on the kind of the layer before it (the first receives
no residual).  A few layers that show every (previous kind, kind) pair of the model show every distinct layer.
They also end as the model does, because what follows the last layer may be one piece of work with its end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import sympy

from dooly.ir.expr import Expr, normal, symbol, symbols_of

__all__ = ["DERIVED", "LayerPlan", "can_thin", "layer_kinds", "plan_layers", "shorten"]


@dataclass(frozen=True)
class LayerPlan:
    """Capture the layers of these numbers; the ``i``-th of them stands for ``counts[i]`` layers of the model.

    Attributes:
        layers: numbers of the model's layers, ascending.
        values: the symbols that the counts use beside ``Nl``: how many layers are of the second kind, the third and
            so on (``N2``, ``N3``, in order of first appearance), and where that leaves it open how many layers of kind
            ``b`` follow one of kind ``a``, also that (``N1to2``).
    """

    layers: tuple[int, ...]
    counts: tuple[Expr, ...]
    values: Mapping[str, int]

    @property
    def depth(self) -> int:
        """Number of layers to capture."""
        return len(self.layers)


def plan_layers(kinds: tuple[Hashable, ...], *, thin: bool = False) -> LayerPlan:
    """The shortest prefix that covers all pairs and ends with a layer of the kind that the model ends with.

    Counts are expressions over the number of layers of each kind, so that models that differ in depth alone have equal
    graphs; together they are the number of layers.

    Args:
        thin: leave out layers of that prefix too, as long as every pair is still shown, and none more often than the
            model has it; see ``can_thin``.

    >>> plan_layers(("dense",) * 32).counts
    (1, Nl - 1)
    >>> plan_layers(("dense", "moe", "moe", "moe", "moe")).counts
    (1, 1, N2 - 1)
    >>> plan_layers(("sliding", "full") * 21)
    LayerPlan(layers=(0, 1, 2, 3), counts=(1, 1, N2 - 1, N2 - 1), values={'N2': 21})
    >>> plan_layers(("dense", "dense", "dense", "moe", "moe"), thin=True).layers
    (0, 2, 3, 4)
    """
    every = Counter(_pairs(kinds))
    depth = next(
        d for d in range(1, len(kinds) + 1) if kinds[d - 1] == kinds[-1] and set(_pairs(kinds[:d])) == every.keys()
    )
    layers = list(range(depth))
    for layer in range(1, depth - 1) if thin else ():
        rest = [other for other in layers if other != layer]
        shown = Counter(_pairs([kinds[other] for other in rest]))
        if shown.keys() == every.keys() and shown <= every:
            layers = rest
    totals, values = _totals(kinds)
    pairs = _pairs([kinds[layer] for layer in layers])
    shown, last = Counter(pairs), {pair: index for index, pair in enumerate(pairs)}
    counts = [
        normal(totals[pair] - shown[pair] + 1) if last[pair] == index else sympy.Integer(1)
        for index, pair in enumerate(pairs)
    ]
    return LayerPlan(tuple(layers), tuple(counts), values)


def _pairs(kinds: Sequence[Hashable]) -> list[tuple[Hashable, Hashable]]:
    """Each layer's kind with the kind before it."""
    return list(zip((None, *kinds), kinds))


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

_FREE: tuple[Rule, ...] = (
    _listed("layer_types"),
    _listed("layers_block_type"),
    _listed("moe_layer_freq"),
    _listed("no_rope_layers"),
    _dense_first,
)

_RULES: tuple[Rule, ...] = (
    *_FREE,
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


def can_thin(config: Mapping[str, Any]) -> bool:
    """Whether layers of any kind may be left out: a list or a number of first layers says the kinds, not a period."""
    alike = range(config["num_hidden_layers"])
    return all(len({rule(config, index) for index in alike}) == 1 for rule in _RULES if rule not in _FREE)


def shorten(config: Mapping[str, Any], layers: Sequence[int]) -> dict[str, Any]:
    """The configuration of these of the model's layers alone: what says the kind of each layer is cut too.

    >>> shorten({"num_hidden_layers": 4, "layer_types": ["a", "b", "b", "a"]}, (0, 1, 3))
    {'num_hidden_layers': 3, 'layer_types': ['a', 'b', 'a']}
    """
    depth, dense = config["num_hidden_layers"], config.get("first_k_dense_replace")
    cut: dict[str, Any] = {
        name: [value[layer] for layer in layers]
        for name, value in config.items()
        if isinstance(value, list) and len(value) == depth and "layer" in name
    }
    if dense is not None:
        cut["first_k_dense_replace"] = sum(layer < dense for layer in layers)
    return {**config, **cut, "num_hidden_layers": len(layers)}
