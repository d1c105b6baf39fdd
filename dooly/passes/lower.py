"""lower: from one model's graph to concrete operations, configuration values put in and request symbols left free."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import sympy

from dooly.errors import PassError
from dooly.ir import (
    Attribute,
    Attributes,
    Block,
    Graph,
    Kind,
    Op,
    Operation,
    Program,
    Use,
    Value,
    evaluate,
    kind_of,
    normal,
    symbol,
    symbols_of,
)
from dooly.ir.expr import Expr

__all__ = ["Lower"]

_ROWS = "T"


@dataclass(frozen=True)
class Lower:
    """Add one operation with one use for each op of each graph that costs something.

    Views and sources cost nothing and are left out.  An operation whose only request symbol is ``L`` (logit rows) is
    written over ``T``, since a row is a row; its use says ``with T = L``.
    Needs ``propagate-taint`` and ``fuse-regions``.  Keeps the graphs, and the table of
    models that have no graph here.  Idempotent.
    """

    name: ClassVar[str] = "lower"

    def run(self, program: Program, /) -> Program:
        lowered = {graph.name for graph in program.graphs}
        others = (replace(op, uses=tuple(u for u in op.uses if u.model not in lowered)) for op in program.operations)
        fresh = (op for graph in program.graphs for op in _operations(graph))
        return replace(program, operations=(*(op for op in others if op.uses), *fresh))


def _operations(graph: Graph) -> list[Operation]:
    values = graph.values()
    found: list[Operation] = []
    for op in graph.work():
        if kind_of(op.target) is Kind.MEMORY:
            raise PassError(f"%{op.name} ({op.target}) is in no region; run fuse-regions first")
        if any(value.origins is None for value in op.results):
            raise PassError(f"%{op.name} has no origins; run propagate-taint first")
        found.append(_operation(graph, op, values))
    return found


def _operation(graph: Graph, op: Op, values: Mapping[str, Value]) -> Operation:
    numbers: dict[sympy.Symbol, Expr] = {symbol(name): sympy.Integer(v) for name, v in graph.config}
    types = [values[name].type for name in op.operands] + [value.type for value in op.results]
    rows = {name for type_ in types for dim in type_.shape for name in symbols_of(dim)} & set(graph.request)
    bind: tuple[tuple[str, str], ...] = ()
    if len(rows) == 1 and rows != {_ROWS}:
        (other,) = rows
        numbers[symbol(other)] = symbol(_ROWS)
        bind = ((_ROWS, other),)
    count = evaluate(op.count, graph.config_values)
    if not isinstance(count, int):
        raise PassError(f"the count of %{op.name} is {count}, not a whole number")
    return Operation(
        op.target,
        tuple(values[name].type.map(numbers) for name in op.operands),
        tuple(value.type.map(numbers) for value in op.results),
        _attributes(op.attrs, numbers),
        None if op.body is None else _block(op.body, numbers),
        (Use(graph.name, op.path, count, bind),),
    )


def _attributes(attrs: Attributes, numbers: Mapping[sympy.Symbol, Expr]) -> Attributes:
    return tuple((name, _attribute(value, numbers)) for name, value in attrs)


def _attribute(value: Attribute, numbers: Mapping[sympy.Symbol, Expr]) -> Attribute:
    if isinstance(value, tuple):
        return tuple(_attribute(item, numbers) for item in value)
    return normal(value.xreplace(numbers)) if isinstance(value, Expr) else value


def _block(body: Block, numbers: Mapping[sympy.Symbol, Expr]) -> Block:
    """The block with numbers put in; a view that turns out to change nothing goes."""

    def bare(value: Value) -> Value:
        return Value(value.name, value.type.map(numbers))

    types = {value.name: bare(value).type for value in body.args}
    alias: dict[str, str] = {}
    ops: list[Op] = []
    for each in body.ops:
        operands = tuple(alias.get(name, name) for name in each.operands)
        op = Op(each.target, operands, tuple(map(bare, each.results)), _attributes(each.attrs, numbers))
        types |= {value.name: value.type for value in op.results}
        same = len(op.results) == 1 and types[op.name] == types[operands[0]]
        if kind_of(op.target) is Kind.VIEW and op.target != "transpose" and same:
            alias[op.name] = operands[0]
        else:
            ops.append(op)
    return _renumbered(Block(tuple(map(bare, body.args)), tuple(ops), tuple(alias.get(n, n) for n in body.outputs)))


def _renumbered(block: Block) -> Block:
    """Values named by position, so that names never tell two equal blocks apart."""
    names: dict[str, str] = {}
    for value in (*block.args, *(value for op in block.ops for value in op.results)):
        names[value.name] = str(len(names))

    def renamed(each: Value) -> Value:
        return replace(each, name=names[each.name])

    ops = tuple(
        replace(op, operands=tuple(names[n] for n in op.operands), results=tuple(map(renamed, op.results)))
        for op in block.ops
    )
    return Block(tuple(map(renamed, block.args)), ops, tuple(names[n] for n in block.outputs))
