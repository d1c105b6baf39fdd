"""Text of the IR: deterministic, one operation a line, read back by ``dooly.ir.parser`` without loss."""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import sympy

from dooly.ir.expr import Expr, format_expr
from dooly.ir.graph import Block, Graph, Op, Value
from dooly.ir.types import Attribute, Attributes, TensorType

if TYPE_CHECKING:
    from dooly.ir.operation import Operation

__all__ = ["format_attributes", "format_graph", "format_nodes", "format_operation", "format_type"]


def format_type(type_: TensorType) -> str:
    """``bf16[T, 4096]``."""
    return f"{type_.dtype}[{', '.join(map(format_expr, type_.shape))}]"


def format_attributes(attrs: Attributes) -> str:
    """``{eps = 1e-05, heads = Nq}``, or nothing if there are none."""
    return f" {{{', '.join(f'{name} = {_attribute(value)}' for name, value in attrs)}}}" if attrs else ""


def _attribute(value: Attribute) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, tuple):
        return f"[{', '.join(map(_attribute, value))}]"
    return format_expr(value)


def format_nodes(nodes: Sequence[int]) -> str:
    """Runs of indices: ``3-6, 9``."""
    runs: list[list[int]] = []
    for node in nodes:
        if runs and node == runs[-1][1] + 1:
            runs[-1][1] = node
        else:
            runs.append([node, node])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def format_graph(graph: Graph) -> str:
    """A graph with its header."""
    return "\n".join(_graph(graph))


def _graph(graph: Graph) -> Iterator[str]:
    yield f"graph {json.dumps(graph.name)} {{"
    yield f"  config {', '.join(f'{name} = {value}' for name, value in graph.config)}".rstrip()
    yield f"  request {', '.join(graph.request)}".rstrip()
    if graph.facts:
        facts = (f"{format_expr(fact.divisor)} | {format_expr(fact.dividend)}" for fact in graph.facts)
        yield f"  where {', '.join(facts)}"
    if graph.settings:
        yield f"  settings {', '.join(f'{name} = {json.dumps(value)}' for name, value in graph.settings)}"
    for each in graph.fixed:
        yield f"  fixed {json.dumps(each.path)} {format_expr(each.size)} = {format_expr(each.value)}"
    for owner in graph.owners:
        yield f"  owner {json.dumps(owner.path)} = {owner.kind}{format_attributes(owner.attrs)}"
    yield f"  captured {graph.captured}"
    yield from _ops(graph.ops, "  ")
    yield f"  return{_names(graph.outputs)}"
    for entry in graph.free:
        yield f"  free {json.dumps(entry.reason)} {format_nodes(entry.nodes)}"
    yield "}"


def _ops(ops: Iterable[Op], indent: str) -> Iterator[str]:
    for op in ops:
        yield from _op(op, indent)


def _op(op: Op, indent: str) -> Iterator[str]:
    results = ", ".join(f"%{value.name}" for value in op.results)
    line = f"{indent}{results} = {op.target}({', '.join(f'%{name}' for name in op.operands)})"
    line += f"{format_attributes(op.attrs)} : {', '.join(format_type(value.type) for value in op.results)}"
    if any(value.origins is not None for value in op.results):
        line += f" from {', '.join(map(_origins, op.results))}"
    if op.count != sympy.Integer(1):
        line += f" x {_atom(op.count)}"
    if op.nodes:
        line += f" nodes {format_nodes(op.nodes)}"
    if op.path:
        line += f" at {json.dumps(op.path)}"
    if op.source:
        line += f" source {json.dumps(op.source)}"
    if op.body is None:
        yield line
        return
    yield f"{line} = {{"
    yield from _body(op.body, indent + "  ")
    yield f"{indent}}}"


def _body(body: Block, indent: str) -> Iterator[str]:
    args = ", ".join(f"%{value.name} : {format_type(value.type)}" for value in body.args)
    yield f"{indent}args {args}".rstrip()
    yield from _ops(body.ops, indent)
    yield f"{indent}return{_names(body.outputs)}"


def _origins(value: Value) -> str:
    return "none" if value.origins is None else f"[{', '.join(origin.value for origin in value.origins)}]"


def _names(names: Iterable[str]) -> str:
    text = ", ".join(f"%{name}" for name in names)
    return f" {text}" if text else ""


def _atom(e: Expr) -> str:
    text = format_expr(e)
    return text if text.isalnum() else f"({text})"


def format_operation(operation: "Operation", name: str | None = None) -> str:
    """An operation with its uses.  ``name`` replaces the derived one (the signature is a hash of text without it)."""
    label = operation.name if name is None else name
    line = f"operation @{label} = {operation.target}({', '.join(map(format_type, operation.operands))})"
    line += f"{format_attributes(operation.attrs)} -> {', '.join(map(format_type, operation.results))}"
    if operation.status:
        line += f" {operation.status}"
    lines = [f"{line} {{"]
    if operation.body is not None:
        lines += _body(operation.body, "  ")
    for use in operation.uses:
        bind = ", ".join(f"{axis} = {symbol}" for axis, symbol in use.bind)
        where = f" with {bind}" if bind else ""
        lines.append(f"  use {json.dumps(use.model)} x {use.count}{where} at {json.dumps(use.path)}")
    if len(lines) == 1:
        return line
    return "\n".join([*lines, "}"])
