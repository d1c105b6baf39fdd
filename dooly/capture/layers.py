"""Which layers of a model must be captured, and how often each captured layer stands for one of the model.

A layer's graph depends on its kind and on what it receives, so on the kind of the layer before it (the first receives
no residual).  A few layers that show every (previous kind, kind) pair of the model show every distinct layer.
They also end as the model does, because what follows the last layer may be one piece of work with its end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import sympy

from dooly.ir.expr import Expr, normal, symbol, symbols_of

__all__ = ["LayerPlan", "plan_layers", "shorten"]


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


def plan_layers(kinds: tuple[Hashable, ...]) -> LayerPlan:
    """A few layers that show all pairs and end with a layer of the kind that the model ends with.

    They are the shortest prefix that does, without the layers that it does not need for that.  Counts are expressions
    over the number of layers of each kind, so that models that differ in depth alone have equal graphs; together they
    are the number of layers.

    >>> plan_layers(("dense",) * 32).counts
    (1, Nl - 1)
    >>> plan_layers(("dense", "moe", "moe", "moe", "moe")).counts
    (1, 1, N2 - 1)
    >>> plan_layers(("sliding", "full") * 21)
    LayerPlan(layers=(0, 1, 2, 3), counts=(1, 1, N2 - 1, N2 - 1), values={'N2': 21})
    >>> plan_layers(("dense", "dense", "dense", "moe", "moe")).layers
    (0, 2, 3, 4)
    """
    every = Counter(_pairs(kinds))
    depth = next(
        d for d in range(1, len(kinds) + 1) if kinds[d - 1] == kinds[-1] and set(_pairs(kinds[:d])) == every.keys()
    )
    layers = list(range(depth))
    for layer in range(1, depth - 1):
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


def shorten(config: Mapping[str, Any], depth: int) -> dict[str, Any]:
    """The configuration of the first ``depth`` layers alone: what has an entry for each layer is cut too.

    >>> shorten({"n_layer": 4, "num_hidden_layers": 4, "layer_types": ["a", "b", "b", "a"], "pattern": "M*M*"}, 3)
    {'n_layer': 3, 'num_hidden_layers': 3, 'layer_types': ['a', 'b', 'b'], 'pattern': 'M*M'}
    """
    whole = config["num_hidden_layers"]

    def cut(name: str, value: Any) -> Any:
        if isinstance(value, list | str) and len(value) == whole and (isinstance(value, list) or "pattern" in name):
            return value[:depth]
        return depth if value == whole and "layer" in name else value

    return {name: cut(name, value) for name, value in config.items()}
