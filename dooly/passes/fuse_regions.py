"""fuse-regions: group memory-bound operations between compute anchors into what the engine runs as one piece."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import networkx as nx
import sympy

from dooly.errors import PassError
from dooly.ir import Block, Graph, Kind, Op, Program, Value, kind_of
from dooly.passes.facts import CANONICAL, FUSED, Fact

__all__ = ["FuseRegions"]

_ONE = sympy.Integer(1)
_ANCHORS = frozenset(
    {Kind.GEMM, Kind.ATTENTION, Kind.BATCHED, Kind.RECURRENT, Kind.MOE, Kind.COLLECTIVE, Kind.UNKNOWN, Kind.REGION}
)


@dataclass(frozen=True)
class FuseRegions:
    """Replace each connected group of memory-bound operations at one anchor depth by a ``region``.

    The anchor depth of an operation is the largest number of anchors (GEMM, attention, MoE, collective, unknown) on a
    path to it.  Two operations of equal depth have no anchor between them, so a group can always run in one piece.
    Views that lead into a group go with it, and so does what computes on weights alone for one reader in it; views that
    only follow a group stay outside and cost nothing.
    In a graph of eager mode nothing is fused: each memory-bound operation is a region of its own.
    Needs ``canonicalize``.  Keeps names of values that outlive their region.  Idempotent.
    """

    name: ClassVar[str] = "fuse-regions"
    requires: ClassVar[tuple[Fact, ...]] = (CANONICAL,)
    establishes: ClassVar[tuple[Fact, ...]] = (FUSED,)

    def run(self, program: Program, /) -> Program:
        return program.map_graphs(_graph)


def _graph(graph: Graph) -> Graph:
    eager = dict(graph.settings).get("mode") == "eager"
    groups = [[op] for op in graph.ops if kind_of(op.target) is Kind.MEMORY] if eager else _groups(graph)
    if not groups:
        return graph
    members = {id(op): index for index, group in enumerate(groups) for op in group}
    condensed: nx.DiGraph[int] = nx.DiGraph()
    unit: dict[str, int] = {}
    position: dict[int, int] = {}
    for index, op in enumerate(graph.ops):
        number = members.get(id(op), len(groups) + index)
        condensed.add_node(number)
        position[number] = min(position.get(number, index), index)
        condensed.add_edges_from((unit[name], number) for name in op.operands if unit[name] != number)
        unit |= {value.name: number for value in op.results}
    order = nx.lexicographical_topological_sort(condensed, key=lambda number: position[number])
    needed = {name for op in graph.ops for name in op.operands if unit[name] != members.get(id(op), -1)}
    needed |= set(graph.outputs)
    values = graph.values()
    ops = [
        _region(groups[number], values, needed) if number < len(groups) else graph.ops[number - len(groups)]
        for number in order
    ]
    return replace(graph, ops=tuple(ops))


def _groups(graph: Graph) -> list[list[Op]]:
    """Connected groups, each in program order, with what leads into them: views, and work on weights alone."""
    depth: dict[str, int] = {}
    sunk = _sunk(graph)
    defined: dict[str, Op] = {value.name: op for op in graph.ops for value in op.results}
    links: nx.Graph[int] = nx.Graph()
    index = {id(op): i for i, op in enumerate(graph.ops)}
    leading: dict[int, set[int]] = {}
    for op in graph.ops:
        kind = kind_of(op.target)
        level = max((depth[name] for name in op.operands), default=0) + (kind in _ANCHORS)
        depth |= {value.name: level for value in op.results}
        if kind is not Kind.MEMORY or op.name in sunk:
            continue
        here = index[id(op)]
        links.add_node(here)
        views: set[int] = set()
        pending = list(op.operands)
        while pending:
            name = pending.pop()
            source = defined[name]
            number = index[id(source)]
            if depth[name] != level and name not in sunk:
                continue
            if kind_of(source.target) is Kind.VIEW or name in sunk:
                if number not in views:
                    views.add(number)
                    pending += source.operands
            elif kind_of(source.target) is Kind.MEMORY:
                links.add_edge(number, here)
        leading[here] = views
    groups: list[list[Op]] = []
    for view, users in _shared_views(leading).items():
        links.add_edges_from((users[0], other) for other in users[1:])
        leading[users[0]].add(view)
    for component in nx.connected_components(links):
        inside = component | {view for number in component for view in leading[number]}
        groups.append([graph.ops[number] for number in sorted(inside)])
    return sorted(groups, key=lambda group: index[id(group[0])])


def _sunk(graph: Graph) -> set[str]:
    """Results of memory-bound work on weights alone that one memory-bound operation reads: it is done there."""
    reads = Counter([*(name for op in graph.ops for name in set(op.operands)), *graph.outputs])
    once = {n for op in graph.ops if kind_of(op.target) is Kind.MEMORY for n in op.operands if reads[n] == 1}
    fixed: set[str] = set()
    sunk: set[str] = set()
    for op in graph.ops:
        kind, names = kind_of(op.target), {value.name for value in op.results}
        computed = kind in (Kind.MEMORY, Kind.VIEW) and op.operands and fixed.issuperset(op.operands)
        if op.target == "weight" or computed:
            fixed |= names
            if kind is Kind.MEMORY and names <= once:
                sunk |= names
    return sunk


def _shared_views(leading: Mapping[int, set[int]]) -> dict[int, list[int]]:
    """A view that leads into two operations puts them into one group: it cannot be in both."""
    users: dict[int, list[int]] = {}
    for number, views in leading.items():
        for view in views:
            users.setdefault(view, []).append(number)
    return users


def _region(ops: list[Op], values: Mapping[str, Value], needed: set[str]) -> Op:
    """One operation with the group as its body, arguments and inner values renamed by position."""
    inner = {value.name for op in ops for value in op.results}
    operands = tuple(dict.fromkeys(name for op in ops for name in op.operands if name not in inner))
    results = tuple(value for op in ops for value in op.results if value.name in needed)
    if not results:
        raise PassError(f"nothing uses the group of %{ops[0].name} at {ops[0].path}; run canonicalize first")
    fresh = {name: str(i) for i, name in enumerate((*operands, *(v.name for op in ops for v in op.results)))}

    def local(value: Value) -> Value:
        return replace(value, name=fresh[value.name])

    body = Block(
        tuple(replace(local(values[name]), origins=None) for name in operands),
        tuple(
            replace(
                op, operands=tuple(fresh[n] for n in op.operands), results=tuple(map(local, op.results)), count=_ONE
            )
            for op in ops
        ),
        tuple(fresh[value.name] for value in results),
    )
    return Op(
        "region",
        operands,
        results,
        count=ops[-1].count,  # the end of one layer with the start of the next: as often as the next follows the one
        path=_common_path([op.path for op in ops]),
        nodes=tuple(node for op in ops for node in op.nodes),
        body=body,
    )


def _common_path(paths: list[str]) -> str:
    """Deepest module that holds all of them; the first of them if only the whole model does."""
    named = [path.split(".") for path in paths if path]
    shared: list[str] = []
    for words in zip(*named, strict=False):
        if len(set(words)) > 1:
            break
        shared.append(words[0])
    return ".".join(shared or (named[0] if named else []))
