"""annotate-shapes: put every dimension into exact form and check it against the rule of its operation."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, cast

from dooly.errors import PassError
from dooly.ir import (
    Attribute,
    Attributes,
    Divides,
    FloorDiv,
    Graph,
    Op,
    Program,
    TensorType,
    Value,
    floor_div,
    format_type,
    normal,
    well_formed,
)
from dooly.ir.expr import Expr
from dooly.passes.facts import Fact
from dooly.passes.shape_rules import infer

__all__ = ["AnnotateShapes"]


@dataclass(frozen=True)
class AnnotateShapes:
    """Replace floor divisions by exact ones where the header's facts prove them, then derive each result's shape anew.

    A result that its operation's own rule does not reproduce is an error; operations without a rule keep what was
    captured.  Needs nothing.  Keeps everything else.  Idempotent.

    >>> from dooly.ir import parse_program
    >>> text = '''graph "g" { config H = 4, TP = 2
    ...   request T
    ...   where TP | H
    ...   captured 0 %x = input() : f32[T, H//TP] return %x }'''
    >>> print(AnnotateShapes().run(parse_program(text)).graphs[0].ops[0].results[0].type.shape)
    (T, H/TP)
    """

    name: ClassVar[str] = "annotate-shapes"
    requires: ClassVar[tuple[Fact, ...]] = ()
    establishes: ClassVar[tuple[Fact, ...]] = ()

    def run(self, program: Program, /) -> Program:
        return program.map_graphs(_graph)


def _graph(graph: Graph) -> Graph:
    exact = _Exact(graph.facts)
    owners = tuple(replace(owner, attrs=exact.attributes(owner.attrs)) for owner in graph.owners)
    ops = [exact.op(op) for op in graph.ops]
    known: dict[str, TensorType] = {}
    for op in ops:
        _check(op, known)
        known |= {value.name: value.type for value in op.results}
    return replace(graph, ops=tuple(ops), owners=owners)


def _check(op: Op, known: Mapping[str, TensorType]) -> None:
    with well_formed(op.target, op.place):
        shapes = infer(op, [known[name] for name in op.operands])
        derivations = [] if shapes is None else list(zip(op.results, shapes, strict=True))
    for value, shape in derivations:
        derived = TensorType(value.type.dtype, shape)
        if derived != value.type:
            raise PassError(
                f"%{value.name} = {op.target} at {op.path or 'no module'} was captured as {format_type(value.type)} "
                f"but its operands give {format_type(derived)}"
            )


class _Exact:
    """Rewrites expressions under a set of facts, each distinct expression once."""

    def __init__(self, facts: tuple[Divides, ...]) -> None:
        self.facts = [(fact.divisor, fact.dividend) for fact in facts]
        self.done: dict[Expr, Expr] = {}

    def expr(self, e: Expr) -> Expr:
        if not e.has(FloorDiv):
            return e
        if e not in self.done:
            self.done[e] = normal(self._rewrite(e))
        return self.done[e]

    def _rewrite(self, e: Expr) -> Expr:
        if not e.args or not e.has(FloorDiv):
            return e
        args = [self._rewrite(cast(Expr, a)) for a in e.args]
        if isinstance(e, FloorDiv):
            return floor_div(args[0], args[1], self.facts)
        return e.func(*args)

    def attribute(self, value: Attribute) -> Attribute:
        if isinstance(value, tuple):
            return tuple(map(self.attribute, value))
        return self.expr(value) if isinstance(value, Expr) else value

    def attributes(self, attrs: Attributes) -> Attributes:
        return tuple((name, self.attribute(value)) for name, value in attrs)

    def value(self, value: Value) -> Value:
        return replace(value, type=TensorType(value.type.dtype, tuple(map(self.expr, value.type.shape))))

    def op(self, op: Op) -> Op:
        results = tuple(map(self.value, op.results))
        return replace(op, results=results, attrs=self.attributes(op.attrs), count=self.expr(op.count))
