"""The intermediate representation: types, graphs, operations, text, rules.  Needs no torch."""

from dooly.ir.expr import (
    Expr,
    FloorDiv,
    evaluate,
    exact_div,
    floor_div,
    format_expr,
    normal,
    symbol,
    symbols_of,
)
from dooly.ir.expr_parser import parse_expr
from dooly.ir.form import well_formed
from dooly.ir.graph import Block, Divides, Free, Graph, Op, Owner, Value
from dooly.ir.operation import Operation, Use
from dooly.ir.opset import Kind, kind_of, spec_of
from dooly.ir.parser import parse_program, read_program
from dooly.ir.printer import format_graph, format_operation, format_type
from dooly.ir.program import Program
from dooly.ir.types import ITEM_BYTES, Attribute, Attributes, Origin, TensorType, attributes, join, origin_of
from dooly.ir.verify import verify, verify_graph

__all__ = [
    "ITEM_BYTES",
    "Attribute",
    "Attributes",
    "Block",
    "Divides",
    "Expr",
    "FloorDiv",
    "Free",
    "Graph",
    "Kind",
    "Op",
    "Operation",
    "Origin",
    "Owner",
    "Program",
    "TensorType",
    "Use",
    "Value",
    "attributes",
    "evaluate",
    "exact_div",
    "floor_div",
    "format_expr",
    "format_graph",
    "format_operation",
    "format_type",
    "join",
    "kind_of",
    "normal",
    "origin_of",
    "parse_expr",
    "parse_program",
    "read_program",
    "spec_of",
    "symbol",
    "symbols_of",
    "verify",
    "verify_graph",
    "well_formed",
]
