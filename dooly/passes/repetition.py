"""Which captured layers of a model are the same work: by isomorphism of their data flow, not by name or configuration."""

import re
from collections.abc import Sequence

import networkx as nx

from dooly.ir import Block, Graph, Op, Program, Value
from dooly.passes.annotate_shapes import AnnotateShapes
from dooly.passes.base import run
from dooly.passes.canonicalize import Canonicalize
from dooly.passes.expand_opaque import ExpandOpaque
from dooly.passes.flow import flow_of, isomorphic

__all__ = ["layer_classes"]

_LAYER = re.compile(r"[^\d]*?\.(\d+)\.")


def layer_classes(graph: Graph) -> tuple[tuple[int, ...], ...]:
    """Numbers of the captured layers, those of isomorphic data flow together, in the order of first appearance.

    A layer is what stands under one number in the module paths; what it reads from outside counts by type alone.
    Dimensions are compared as expressions, so layers that agree only at one configuration's values are not equal.

    Raises:
        PassError: the graph does not pass ``annotate-shapes``, ``expand-opaque`` or ``canonicalize``.
    """
    (plain,) = run(Program((graph,)), (AnnotateShapes(), ExpandOpaque(), Canonicalize())).graphs
    classes: list[tuple[nx.DiGraph[str], list[int]]] = []
    for number, block in sorted(_layers(plain).items()):
        flow = flow_of(block)
        twin = next((members for other, members in classes if isomorphic(flow, other)), None)
        if twin is None:
            classes.append((flow, [number]))
        else:
            twin.append(number)
    return tuple(tuple(members) for _, members in classes)


def _layers(graph: Graph) -> dict[int, Block]:
    """The operations of each layer as a block; weights are arguments like everything else from outside."""
    members: dict[int, list[Op]] = {}
    for op in graph.ops:
        match = _LAYER.match(op.path)
        if match and op.target != "weight":
            members.setdefault(int(match[1]), []).append(op)
    values = graph.values()
    return {number: _block(graph, ops, values) for number, ops in members.items()}


def _block(graph: Graph, ops: Sequence[Op], values: dict[str, Value]) -> Block:
    made = {value.name for op in ops for value in op.results}
    given = dict.fromkeys(name for op in ops for name in op.operands if name not in made)
    inside = {id(op) for op in ops}
    read = {name for op in graph.ops if id(op) not in inside for name in op.operands} | set(graph.outputs)
    return Block(tuple(values[name] for name in given), tuple(ops), tuple(name for name in values if name in made & read))
