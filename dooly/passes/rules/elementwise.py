"""Rules for element-wise operations: one name each, one order of operands."""

from dataclasses import replace

from dooly.ir import Op, spec_of
from dooly.ir.opset import OPSET
from dooly.passes.rules.rule import Context, Rewrite
from dooly.passes.rules.views import RESHAPES

__all__ = ["cast", "commute", "copy", "plain_name"]


def cast(op: Op, context: Context) -> Rewrite:
    """Conversions of the element type are ``cast``; those that keep it copy all the same."""
    if op.target not in ("aten._to_copy", "aten.to"):
        return None
    same = context.type(op.operands[0]).dtype == op.results[0].type.dtype
    return replace(op, target="copy" if same else "cast", attrs=())


def copy(op: Op, context: Context) -> Rewrite:
    """``copy`` reads its source alone; what it overwrites is not read."""
    if op.target in ("aten.clone", "aten.contiguous", "aten.copy", "aten.copy_"):
        return replace(op, target="copy", operands=op.operands[-1:], attrs=())
    return None


def plain_name(op: Op, context: Context) -> Rewrite:
    """An operation of the op set has one name, whatever dialect or in-place form it came in."""
    dialect, _, name = op.target.rpartition(".")
    name = name.rstrip("_")
    if dialect in ("aten", "_C") and name in OPSET and name not in (*RESHAPES, "index_select"):
        return replace(op, target=name, attrs=tuple((key, value) for key, value in op.attrs if value is not None))
    return None


def commute(op: Op, context: Context) -> Rewrite:
    """Operands of commutative operations: those of higher rank first, then by definition order."""
    if not spec_of(op.target).commutes or len(op.operands) != 2:
        return None
    order = {name: index for index, name in enumerate(context.defs)}
    ordered = tuple(sorted(op.operands, key=lambda name: (-len(context.type(name).shape), order[name])))
    return replace(op, operands=ordered) if ordered != op.operands else None
