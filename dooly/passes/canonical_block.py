"""The one form of a region: views that say the same said once, operations in an order that data flow alone decides."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import sympy

from dooly.ir import Block, Kind, Op, Value, attributes, format_type, kind_of, normal, spec_of, well_formed
from dooly.ir.expr import Expr
from dooly.ir.operation import viewed
from dooly.ir.printer import format_attributes

__all__ = ["in_canonical_order", "with_plain_views"]


def with_plain_views(block: Block) -> Block:
    """Views in their simplest form: none that changes nothing, no two alike, a split as slices, none returned.

    A value returned that is an argument seen through views costs nothing, so the region need not return it, as long as
    it returns something else.
    """
    types = {value.name: value.type for value in block.args}
    alias: dict[str, str] = {}
    defs: dict[str, Op] = {}
    views: dict[object, str] = {}
    ops: list[Op] = []
    for original in block.ops:
        op = replace(original, operands=tuple(alias.get(name, name) for name in original.operands))
        types |= {value.name: value.type for value in op.results}
        for part in _as_slices(op):
            if kind_of(part.target) is not Kind.VIEW or (len(part.operands), len(part.results)) != (1, 1):
                ops.append(part)
                continue
            inner = defs.get(part.operands[0])
            if part.target == "reshape" and inner is not None and inner.target == "reshape":
                part = replace(part, operands=inner.operands)
            (source,), type_ = part.operands, part.results[0].type
            key = (part.target, source, part.attrs, type_)
            same = source if part.target != "transpose" and types[source] == type_ else views.get(key)
            if same is not None:
                alias[part.name] = same
            else:
                views[key] = part.name
                defs[part.name] = part
                ops.append(part)
    outputs = tuple(dict.fromkeys(alias.get(name, name) for name in block.outputs))
    plain = Block(block.args, tuple(ops), outputs)
    seen = viewed(plain)
    outputs = tuple(name for name in outputs if name not in seen) or outputs
    return _without_dead_views(replace(plain, outputs=outputs))


def _as_slices(op: Op) -> Sequence[Op]:
    """A split as the slices that it stands for; anything else as it is."""
    dim = op.attr("dim")
    if op.target != "split" or len(op.operands) != 1 or not isinstance(dim, sympy.Integer):
        return (op,)
    start: Expr = sympy.Integer(0)
    slices: list[Op] = []
    with well_formed(op.target, op.place):
        for value in op.results:
            slices.append(Op("slice", op.operands, (value,), attributes(dim=dim, start=start)))
            start = normal(start + value.type.shape[int(dim)])
    return slices


def _without_dead_views(block: Block) -> Block:
    live = set(block.outputs)
    kept: list[Op] = []
    for op in reversed(block.ops):
        if kind_of(op.target) is not Kind.VIEW or any(value.name in live for value in op.results):
            kept.append(op)
            live.update(op.operands)
    return Block(tuple(value for value in block.args if value.name in live), tuple(reversed(kept)), block.outputs)


def in_canonical_order(block: Block) -> Block:
    """The same data flow in an order, and with names, that depend on nothing but the data flow.

    Colour refinement gives every argument and operation a colour from what it is, what it reads and who reads it, until
    nothing more is told apart; of several left alike (the two halves of a symmetric region) one is singled out and the
    refinement goes on.  Operations then follow in topological order, least colour first.  Isomorphic blocks come out
    equal, save for graphs that colour refinement cannot tell apart; ``dedup`` finds those by isomorphism.
    """
    flow = _Flow(block)
    colours = flow.colours()
    waiting = {op.name: {name for name in op.operands if name in flow.made} for op in block.ops}
    ready = {value.name for value in block.args}
    ordered: list[Op] = []
    while waiting:
        name = min((n for n, needs in waiting.items() if needs <= ready), key=lambda n: colours[flow.index[n]])
        del waiting[name]
        op = flow.ops[flow.index[name]]
        ready |= {value.name for value in op.results}
        ordered.append(replace(op, operands=flow.ordered_operands(op, colours)))
    read = tuple(dict.fromkeys(name for op in ordered for name in op.operands if name not in flow.made))
    unread = sorted(flow.given - set(read), key=lambda name: colours[flow.index[name]])
    types = {value.name: value for value in block.args}
    args = tuple(types[name] for name in (*read, *unread))
    return _numbered(args, ordered, block.outputs)


class _Flow:
    """Arguments and operations of a block as nodes 0, 1, ...; edges carry operand slot and result index."""

    def __init__(self, block: Block) -> None:
        self.given = {value.name for value in block.args}
        self.index: dict[str, int] = {}
        self.ops: dict[int, Op] = {}
        self.made: set[str] = set()
        self.types = {value.name: value.type for value in block.args}
        labels: list[str] = []
        for value in block.args:
            self.index[value.name] = len(labels)
            labels.append(f"arg {format_type(value.type)}")
        for op in block.ops:
            self.ops[len(labels)] = op
            for value in op.results:
                self.index[value.name] = len(labels)
                self.types[value.name] = value.type
                self.made.add(value.name)
            types = ", ".join(format_type(value.type) for value in op.results)
            labels.append(f"{op.target}{format_attributes(op.attrs)} : {types}")
        result = {value.name: i for op in block.ops for i, value in enumerate(op.results)}
        returned: list[list[int]] = [[] for _ in labels]
        for name in block.outputs:
            returned[self.index[name]].append(result.get(name, 0))
        self.reads: list[list[tuple[int, int, int]]] = [[] for _ in labels]
        self.readers: list[list[tuple[int, int, int]]] = [[] for _ in labels]
        for node, op in self.ops.items():
            commutes = spec_of(op.target).commutes
            for slot, name in enumerate(op.operands):
                place, source, part = 0 if commutes else slot, self.index[name], result.get(name, 0)
                self.reads[node].append((place, source, part))
                self.readers[source].append((place, node, part))
        self._initial = _ranks([(label, tuple(sorted(out))) for label, out in zip(labels, returned)])

    def colours(self) -> list[int]:
        """A colour of its own for every node."""
        colours = self._refine(self._initial)
        while len(set(colours)) < len(colours):
            alike = next(c for c in sorted(set(colours)) if colours.count(c) > 1)
            chosen = colours.index(alike)
            colours = self._refine(_ranks([(c, node != chosen) for node, c in enumerate(colours)]))
        return colours

    def _refine(self, colours: list[int]) -> list[int]:
        while True:
            finer = _ranks(
                [
                    (
                        colour,
                        tuple(sorted((place, colours[source], part) for place, source, part in self.reads[node])),
                        tuple(sorted((place, colours[reader], part) for place, reader, part in self.readers[node])),
                    )
                    for node, colour in enumerate(colours)
                ]
            )
            if len(set(finer)) == len(set(colours)):
                return finer
            colours = finer

    def ordered_operands(self, op: Op, colours: list[int]) -> tuple[str, ...]:
        """Order the operands of a commutative operation by rank, highest first, then by colour; leave others."""
        if not spec_of(op.target).commutes:
            return op.operands
        position = {value.name: i for other in self.ops.values() for i, value in enumerate(other.results)}

        def key(name: str) -> tuple[int, int, int]:
            return -len(self.types[name].shape), colours[self.index[name]], position.get(name, 0)

        return tuple(sorted(op.operands, key=key))


def _ranks(keys: Sequence[tuple[Any, ...]]) -> list[int]:
    """Position of each key among the distinct ones."""
    order = {key: rank for rank, key in enumerate(sorted(set(keys)))}
    return [order[key] for key in keys]


def _numbered(args: tuple[Value, ...], ops: list[Op], outputs: tuple[str, ...]) -> Block:
    """Values named by position; returned in that order."""
    names: dict[str, str] = {}
    for value in (*args, *(value for op in ops for value in op.results)):
        names[value.name] = str(len(names))

    def renamed(each: Value) -> Value:
        return replace(each, name=names[each.name])

    return Block(
        tuple(map(renamed, args)),
        tuple(
            replace(op, operands=tuple(names[n] for n in op.operands), results=tuple(map(renamed, op.results)))
            for op in ops
        ),
        tuple(sorted((names[n] for n in outputs), key=int)),
    )
