"""Numbers of layers in the paths of a graph."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from dooly.ir import Attribute, Attributes, Graph

__all__ = ["layers_of_graph", "renumbered"]


def renumbered(graph: Graph, path: str, number: Callable[[int], int]) -> Graph:
    """The graph with other numbers for the layers in the list at ``path``."""
    place = re.compile(rf"^{re.escape(path)}\.(\d+)(?=\.)")

    def named(text: str) -> str:
        return place.sub(lambda found: f"{path}.{number(int(found[1]))}", text)

    def renamed(value: Attribute) -> Attribute:
        if isinstance(value, tuple):
            return tuple(map(renamed, value))
        return named(value) if isinstance(value, str) else value

    def attrs(values: Attributes) -> Attributes:
        return tuple((name, renamed(value)) for name, value in values)

    return replace(
        graph,
        ops=tuple(replace(op, path=named(op.path), attrs=attrs(op.attrs)) for op in graph.ops),
        owners=tuple(replace(owner, path=named(owner.path), attrs=attrs(owner.attrs)) for owner in graph.owners),
    )


def layers_of_graph(graph: Graph) -> str:
    """Path of the list of layers: what stands before the first number.

    Raises:
        ValueError: no path has a number.
    """
    for op in graph.ops:
        if found := re.match(r"(.*?)\.\d+\.", op.path):
            return found[1]
    raise ValueError(f"{graph.name} has no numbered layers")
