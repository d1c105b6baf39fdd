"""Rotary embeddings that are written out, as one operation: what compilers get and what fused kernels do is equal text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod

import sympy

from dooly.ir import Graph, Kind, Op, TensorType, Value, attributes, join, kind_of

__all__ = ["fold_rotary"]


@dataclass(frozen=True)
class _Rotation:
    """One tensor rotated by angles: its last operation, the tensor, and all operations that only serve this."""

    last: Op
    tensor: str
    angles: Op
    members: tuple[Op, ...]


def fold_rotary(graph: Graph) -> Graph:
    """Query and key, both rotated by halves with angles of one table, become one ``rotary_embedding``.

    Both are left alone where another operation reads something in between.  Nodes of the views that become unread stay
    with them.
    """
    found = _Finder(graph)
    rotations: dict[str, list[_Rotation]] = {}
    for rotation in found.rotations():
        rotations.setdefault(rotation.angles.name, []).append(rotation)
    pairs = [(pair[0], pair[1]) for pair in rotations.values() if len(pair) == 2 and found.only_used_by(*pair)]
    if not pairs:
        return graph
    gone = {id(op) for pair in pairs for rotation in pair for op in (*rotation.members, rotation.angles)}
    behind: dict[int, list[Op]] = {}
    for first, second in pairs:
        for source, op in found.fold(first, second):
            behind.setdefault(id(source), []).append(op)
    ops = [new for op in graph.ops for new in (*([] if id(op) in gone else [op]), *behind.get(id(op), []))]
    return replace(graph, ops=tuple(ops))


class _Finder:
    def __init__(self, graph: Graph) -> None:
        self._ops = graph.ops
        self._defs = {value.name: op for op in graph.ops for value in op.results}
        self._at = {id(op): index for index, op in enumerate(graph.ops)}
        self._readers: dict[str, list[Op]] = {}
        for op in graph.ops:
            for name in op.operands:
                self._readers.setdefault(name, []).append(op)
        self._returned = frozenset(graph.outputs)

    def rotations(self) -> Iterator[_Rotation]:
        for op in self._ops:
            found = self._rotation(op) if op.target == "cat" else None
            if found is not None:
                yield self._with_rest(found)

    def _rotation(self, cat: Op) -> _Rotation | None:
        """``cat(x1*c - x2*s, x2*c + x1*s)`` with ``x1, x2`` the halves of ``x`` and ``c, s`` those of the angles."""
        if len(cat.operands) != 2:
            return None
        minus, plus = (self._defs[name] for name in cat.operands)
        if (minus.target, plus.target) != ("sub", "add") or len(minus.operands) != 2 or len(plus.operands) != 2:
            return None
        products = [self._defs[name] for op in (minus, plus) for name in op.operands]
        if any(op.target != "mul" or len(op.operands) != 2 for op in products):
            return None
        sums = [frozenset(map(self._half, op.operands)) for op in products]
        halves = {half for product in sums for half in product}
        sources = {source for source, _ in halves}
        if len(halves) != 4 or len(sources) != 2:
            return None
        x, angle = sorted(sources, key=self._is_angle)
        wanted = [frozenset({(x, i), (angle, j)}) for i, j in ((0, 0), (1, 1), (1, 0), (0, 1))]
        if not self._is_angle(angle) or sums[:2] != wanted[:2] or frozenset(sums[2:]) != frozenset(wanted[2:]):
            return None
        return _Rotation(cat, x, self._defs[angle], (cat, minus, plus, *products))

    def _half(self, name: str) -> tuple[str, int]:
        """The value that this is a half of, behind reshapes that insert an axis, and which half."""
        op = self._defs[name]
        while op.target == "reshape":
            name = op.operands[0]
            op = self._defs[name]
        if op.target != "split" or len(op.results) != 2 or op.results[0].type != op.results[1].type:
            return name, -1
        return op.operands[0], [value.name for value in op.results].index(name)

    def _is_angle(self, name: str) -> bool:
        return self._defs[name].target == "index_select"

    def _with_rest(self, found: _Rotation) -> _Rotation:
        """Features that are not rotated are put back behind those that are; there may be none."""
        source = self._defs[found.tensor]
        whole = source.operands[0] if source.target == "slice" else found.tensor
        readers = self._readers.get(found.last.name, [])
        if len(readers) == 1 and readers[0].target == "cat" and readers[0].operands[0] == found.last.name:
            rest = self._defs[readers[0].operands[-1]]
            if rest.target == "slice" and rest.operands == (whole,) and len(readers[0].operands) == 2:
                return replace(found, last=readers[0], tensor=whole, members=(*found.members, readers[0]))
        return found

    def only_used_by(self, first: _Rotation, second: _Rotation) -> bool:
        """Whether nothing else reads inside, and nothing reads the first result before the second is there."""
        inside = {id(op) for rotation in (first, second) for op in rotation.members}
        angles, readers = self._seen_of(first.angles)
        inner = {op.name: op for rotation in (first, second) for op in rotation.members if op is not rotation.last}
        readers += [user for name in inner for user in self._readers.get(name, [])]
        if any(id(user) not in inside for user in readers) or not self._returned.isdisjoint(angles | set(inner)):
            return False
        if first.tensor in angles or second.tensor in angles:
            return False
        here = self._at[id(second.last)]
        return all(self._at[id(user)] > here for user in self._readers.get(first.last.name, []))

    def _seen_of(self, op: Op) -> tuple[set[str], list[Op]]:
        """The results of an operation and all views of them, and what else reads those."""
        seen = {value.name for value in op.results}
        pending, readers = list(seen), list[Op]()
        while pending:
            for user in self._readers.get(pending.pop(), []):
                if kind_of(user.target) is not Kind.VIEW:
                    readers.append(user)
                    continue
                names = {value.name for value in user.results} - seen
                seen |= names
                pending += names
        return seen, readers

    def fold(self, first: _Rotation, second: _Rotation) -> list[tuple[Op, Op]]:
        """One operation over rows of all heads, as kernels take them, with reshapes of its operands and results.

        Each comes with the operation of the graph behind which it belongs.
        """
        pair = (first, second)
        tensors = [self._value(rotation.tensor) for rotation in pair]
        rows = [_rows(value) for value in tensors]
        flat = [
            replace(rotation.last, target="reshape", operands=(value.name,), results=(row,), attrs=(), nodes=())
            for rotation, value, row in zip(pair, tensors, rows)
        ]
        table, positions = first.angles.operands
        nodes = {node for rotation in pair for op in rotation.members for node in op.nodes}
        rotated = tuple(replace(row, name=f"{rotation.last.name}.rows") for rotation, row in zip(pair, rows))
        folded = replace(
            second.last,
            target="rotary_embedding",
            operands=(positions, rows[0].name, rows[1].name, table),
            results=rotated,
            attrs=attributes(head_size=tensors[0].type.shape[-1], is_neox=True),
            nodes=tuple(nodes | set(first.angles.nodes)),
        )
        shaped = [
            replace(rotation.last, target="reshape", operands=(row.name,), attrs=(), nodes=())
            for rotation, row in zip(pair, rotated)
        ]
        sources = [self._defs[value.name] for value in tensors]
        return [*zip(sources, flat), *((second.last, op) for op in (folded, *shaped))]

    def _value(self, name: str) -> Value:
        return next(value for value in self._defs[name].results if value.name == name)


def _rows(value: Value) -> Value:
    """``[tokens, heads, features]`` as ``[tokens, heads*features]``."""
    tokens, *rest = value.type.shape
    origins = value.origins and (value.origins[0], join(value.origins[1:]))
    type_ = TensorType(value.type.dtype, (tokens, prod(rest, start=sympy.Integer(1))))
    return Value(f"{value.name}.rows", type_, origins)
