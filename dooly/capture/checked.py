"""Weights of a graph beside those of the engine's whole model: as many of each, in as many bytes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

import torch

from dooly.errors import CaptureError
from dooly.ir import Graph, evaluate
from dooly.ir.expr import Expr

__all__ = ["Amounts", "amounts", "check_counts", "check_sizes"]

Amounts = Mapping[str, tuple[int, int]]
"""Elements and bytes of parameters by name."""

_MOST_NAMED = 3


def amounts(model: torch.nn.Module) -> Amounts:
    """Return the amounts of a model's parameters as it stands."""
    return {name: (tensor.numel(), tensor.nbytes) for name, tensor in model.named_parameters()}


def check_sizes(graph: Graph, built: Amounts, place: str) -> None:
    """Check the weights of a graph, one by one, against the parameters of the model that it was captured from.

    Raises:
        CaptureError: sizes or element types differ.
    """
    counted = {
        op.path: tuple(int(evaluate(amount, graph.config_values)) for amount in (type_.numel, type_.bytes))
        for op in graph.ops
        if op.target == "weight"
        for type_ in (op.results[0].type,)
    }
    _compare({name: counted.get(name, (0, 0)) for name in built}, built, place)


def check_counts(captured: Amounts, graph: Graph, count: Callable[[str], Expr], whole: Amounts, place: str) -> None:
    """Check that captured layers, each as often as the model has it, are the whole model.

    Args:
        captured: parameters of the model of fewer layers, as the engine makes them.
        graph: has the values of configuration symbols.
        count: how many layers the one of a parameter stands for.
        whole: parameters of the model of all layers.

    Raises:
        CaptureError: they differ.
    """
    times = {name: int(evaluate(count(name), graph.config_values)) for name in captured}
    here = ((name, (times[name] * elements, times[name] * size)) for name, (elements, size) in captured.items())
    _compare(_by_kind(here), _by_kind(whole.items()), place)


def _by_kind(each: Iterable[tuple[str, tuple[int, int]]]) -> Amounts:
    """Summed over layers: names with ``*`` for their numbers."""
    elements: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for name, (count, size) in each:
        kind = re.sub(r"\.\d+\.", ".*.", name)
        elements[kind] += count
        sizes[kind] += size
    return {kind: (elements[kind], sizes[kind]) for kind in elements}


def _compare(here: Mapping[str, tuple[int, ...]], there: Amounts, place: str) -> None:
    wrong = [name for name in sorted({*here, *there}) if here.get(name, (0, 0)) != there.get(name, (0, 0))]
    if wrong:
        said = "; ".join(
            f"{name} has {there.get(name, (0, 0))[1]:,} bytes there, {here.get(name, (0, 0))[1]:,} here"
            for name in wrong[:_MOST_NAMED]
        )
        more = f"; and {len(wrong) - _MOST_NAMED} more" if len(wrong) > _MOST_NAMED else ""
        raise CaptureError(f"{place}: weights are not those of the engine's model: {said}{more}")
