"""Rules for what only re-reads memory: identities, reshapes, transposes, splits, slices."""

from dataclasses import replace

import sympy

from dooly.ir import Op, attributes
from dooly.passes.rules.rule import Context, Rewrite, axis_of

__all__ = ["RESHAPES", "drop_identity", "reshape", "slice_", "split", "transpose"]

RESHAPES = ("view", "_unsafe_view", "reshape", "unsqueeze", "squeeze", "flatten", "unflatten")


def drop_identity(op: Op, context: Context) -> Rewrite:
    """``detach``, ``alias``, and views that change nothing, repeat their operand; a copy of equal type is work."""
    if op.target in ("aten.detach", "aten.alias", "aten.lift_fresh_copy"):
        return op.operands[0]
    if op.target in ("reshape", "expand", "slice") and context.type(op.operands[0]) == op.results[0].type:
        return op.operands[0]
    return None


def reshape(op: Op, context: Context) -> Rewrite:
    """Every operation that only re-reads the same elements in order is ``reshape``; two in a row are one."""
    if op.target.removeprefix("aten.") in RESHAPES and op.target.startswith("aten."):
        if context.type(op.operands[0]).dtype != op.results[0].type.dtype:
            return None
        return replace(op, target="reshape", attrs=())
    if op.target == "reshape":
        source = context.defs[op.operands[0]]
        if source.target == "reshape":
            return replace(op, operands=source.operands)
    return None


def transpose(op: Op, context: Context) -> Rewrite:
    """``t``, ``transpose`` and ``permute`` are ``transpose`` with the full order of axes."""
    rank = len(op.results[0].type.shape)
    if op.target == "aten.t":
        return replace(op, target="transpose", attrs=attributes(order=tuple(range(rank))[::-1]))
    if op.target == "aten.transpose":
        order = list(range(rank))
        a, b = (axis_of(op, name, rank) for name in ("dim0", "dim1"))
        order[a], order[b] = order[b], order[a]
        return replace(op, target="transpose", attrs=attributes(order=tuple(order)))
    if op.target == "aten.permute":
        return replace(op, target="transpose", attrs=attributes(order=op.attr("dims")))
    return None


def split(op: Op, context: Context) -> Rewrite:
    """Splits say only along which axis; the sizes are in the types."""
    if op.target in ("aten.split_with_sizes", "aten.split", "aten.chunk", "aten.unbind"):
        rank = len(context.type(op.operands[0]).shape)
        if op.target == "aten.unbind":
            return None
        return replace(op, target="split", attrs=attributes(dim=axis_of(op, "dim", rank)))
    return None


def slice_(op: Op, context: Context) -> Rewrite:
    """A slice says axis and start; where it ends is in the type."""
    if op.target != "aten.slice" or op.attr("step") not in (None, sympy.Integer(1)):
        return None
    rank = len(op.results[0].type.shape)
    start = op.attr("start")
    return replace(
        op, target="slice", attrs=attributes(dim=axis_of(op, "dim", rank), start=0 if start is None else start)
    )
