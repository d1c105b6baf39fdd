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
    symbol,
    symbols_of,
    well_formed,
)
from dooly.ir.expr import Expr, substitute
from dooly.passes.facts import EXPANDED, FUSED, LOWERED, ORIGINS, Fact
from dooly.passes.canonical_block import in_canonical_order, with_plain_views
from dooly.passes.representative import flat_rows, standard_numbers, table_arguments, with_table_rows

__all__ = ["Lower"]

_ROWS = "T"


@dataclass(frozen=True)
class Lower:
    """Add one operation with one use for each op of each graph that costs something.

    Views and sources cost nothing and are left out.  An operation whose only request symbol is ``L`` (logit rows) is
    written over ``T``, since a row is a row; its use says ``with T = L``.  What cannot change the cost is put into one
    form: see ``dooly.passes.representative`` for numbers and tables, ``dooly.passes.canonical_block`` for regions.
    Needs ``propagate-taint`` and ``fuse-regions``.  Keeps the graphs, and the table of
    models that have no graph here.  Idempotent.
    """

    name: ClassVar[str] = "lower"
    requires: ClassVar[tuple[Fact, ...]] = (ORIGINS, EXPANDED, FUSED)
    establishes: ClassVar[tuple[Fact, ...]] = (LOWERED,)

    def run(self, program: Program, /) -> Program:
        lowered = {graph.name for graph in program.graphs}
        others = (replace(op, uses=tuple(u for u in op.uses if u.model not in lowered)) for op in program.operations)
        fresh = (op for graph in program.graphs for op in _operations(graph))
        return replace(program, operations=(*(op for op in others if op.uses), *fresh))


def _operations(graph: Graph) -> list[Operation]:
    values = graph.values()
    found: list[Operation] = []
    for op in graph.work():
        with well_formed(op.target, op.place):
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
    uses = (Use(graph.name, op.path, count, bind),)
    attrs = standard_numbers(op.target, _attributes(op.attrs, numbers))
    if op.body is not None:
        body = _block(op.body, numbers)
        made = {value.name: value.type for each in body.ops for value in each.results}
        made |= {value.name: value.type for value in body.args}
        operands, results = (value.type for value in body.args), (made[name] for name in body.outputs)
        return Operation(op.target, tuple(operands), tuple(results), attrs, body, uses)
    operands = tuple(values[name].type.map(numbers) for name in op.operands)
    results = tuple(value.type.map(numbers) for value in op.results)
    if kind_of(op.target) is Kind.GEMM and len(operands) > 1 and len(operands[1].shape) == 2:
        operands, results = (flat_rows(operands[0]), *operands[1:]), tuple(map(flat_rows, results))
    return Operation(op.target, operands, results, attrs, None, uses)


def _attributes(attrs: Attributes, numbers: Mapping[sympy.Symbol, Expr]) -> Attributes:
    return tuple((name, _attribute(value, numbers)) for name, value in attrs)


def _attribute(value: Attribute, numbers: Mapping[sympy.Symbol, Expr]) -> Attribute:
    if isinstance(value, tuple):
        return tuple(_attribute(item, numbers) for item in value)
    return substitute(value, numbers) if isinstance(value, Expr) else value


def _block(body: Block, numbers: Mapping[sympy.Symbol, Expr]) -> Block:
    """The block with numbers put in, what is known about its operations left out, in its one form."""

    def bare(value: Value) -> Value:
        return Value(value.name, value.type.map(numbers))

    def op(each: Op) -> Op:
        attrs = standard_numbers(each.target, _attributes(each.attrs, numbers))
        return Op(each.target, each.operands, tuple(map(bare, each.results)), attrs)

    block = with_plain_views(Block(tuple(map(bare, body.args)), tuple(map(op, body.ops)), body.outputs))
    tables = table_arguments(block)
    args = (replace(v, type=with_table_rows(v.type)) if v.name in tables else v for v in block.args)
    return in_canonical_order(replace(block, args=tuple(args)))
