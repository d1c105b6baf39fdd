"""Rules for quantized weights and activations: products of scaled matrices, and where scales come from."""

from dataclasses import replace

import sympy

from dooly.ir import Op, attributes
from dooly.passes.rules.rule import Context, Rewrite, axis_of

__all__ = ["amax", "scaled_fp8_quant", "scaled_linear"]

_SWAPPED = (sympy.Integer(1), sympy.Integer(0))
_SCALES = {
    "_C.static_scaled_fp8_quant": "given",
    "_C.dynamic_scaled_fp8_quant": "tensor",
    "_C.dynamic_per_token_scaled_fp8_quant": "token",
    "_C.per_token_group_fp8_quant": "group",
}
"""What has a scale of its own, by kernel; a given scale is an operand."""


def scaled_linear(op: Op, context: Context) -> Rewrite:
    """``scaled_linear(x, w, x_scale, w_scale[, bias])`` has a row of ``w`` per output, whatever layout the kernel takes."""
    if op.target == "vllm.fp8_gemm_nt_op":
        x, x_scale, w, w_scale = op.operands
        return replace(op, target="scaled_linear", operands=(x, w, x_scale, w_scale), attrs=())
    if op.target != "_C.cutlass_scaled_mm":
        return None
    x, w, x_scale, w_scale, *bias = op.operands
    transposed = context.defs[w]
    if transposed.target != "transpose" or transposed.attr("order") != _SWAPPED:
        return None
    return replace(
        op, target="scaled_linear", operands=(x, transposed.operands[0], x_scale, w_scale, *bias), attrs=()
    )


def scaled_fp8_quant(op: Op, context: Context) -> Rewrite:
    """Kernels that scale to fp8 differ in what shares a scale: a token, a group of features, the tensor; or it is given."""
    scale = _SCALES.get(op.target)
    if scale is None:
        return None
    kept = {"group_size": op.attr("group_size")} if scale == "group" else {}
    return replace(op, target="scaled_fp8_quant", attrs=attributes(scale=scale, **kept))


def amax(op: Op, context: Context) -> Rewrite:
    """The largest element along one axis; where it stands is not asked for."""
    if op.target == "aten.amax":
        axes = op.attr("dim")
        if not isinstance(axes, tuple) or len(axes) != 1:
            return None
        op = replace(op, attrs=tuple((name, axes[0] if name == "dim" else value) for name, value in op.attrs))
    elif op.target != "aten.max" or len(op.results) != 2 or context.uses[op.results[1].name]:
        return None
    rank = len(context.type(op.operands[0]).shape)
    return replace(op, target="amax", results=op.results[:1], attrs=attributes(dim=axis_of(op, "dim", rank)))
