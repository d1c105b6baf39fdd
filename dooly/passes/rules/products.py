"""Rules for matrix products."""

from dataclasses import replace

import sympy

from dooly.ir import Op
from dooly.passes.rules.rule import Context, Rewrite

__all__ = ["product", "transposed_weight"]

_PRODUCTS = {"aten.mm": (0, 1), "aten.bmm": (0, 1), "aten.matmul": (0, 1), "aten.addmm": (1, 2, 0)}
"""Products of ATen, with the places of the two factors and of what is added."""


def product(op: Op, context: Context) -> Rewrite:
    """``linear(x, w[, bias])`` has a row of ``w`` per output, ``matmul(x, w[, bias])`` a column; a scaled sum is left."""
    if op.target in ("aten.linear", "vllm.min_latency_fused_qkv_a_proj"):
        return replace(op, target="linear", attrs=())
    places = _PRODUCTS.get(op.target)
    if places is None or any(op.attr(name) is not None for name in ("alpha", "beta")):
        return None
    return replace(op, target="matmul", operands=tuple(op.operands[place] for place in places), attrs=())


def transposed_weight(op: Op, context: Context) -> Rewrite:
    """A transpose of the weight is no work but the other layout: of ``matmul`` it makes ``linear``, and back."""
    other = {"linear": "matmul", "matmul": "linear"}.get(op.target)
    if other is None:
        return None
    source = context.defs[op.operands[1]]
    if source.target != "transpose" or source.attr("order") != (sympy.Integer(1), sympy.Integer(0)):
        return None
    return replace(op, target=other, operands=(op.operands[0], source.operands[0], *op.operands[2:]))
