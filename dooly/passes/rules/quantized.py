"""Rules for quantized weights and activations: products of scaled matrices, and where scales come from."""

from dataclasses import replace

import sympy

from dooly.ir import Op, attributes
from dooly.passes.rules.rule import Context, Rewrite, axis_of

__all__ = ["amax", "packed_linear", "scaled_linear", "scaled_quant"]

_SWAPPED = (sympy.Integer(1), sympy.Integer(0))
_QUANTS = {
    "_C.static_scaled_fp8_quant": ("scaled_fp8_quant", "given"),
    "_C.dynamic_scaled_fp8_quant": ("scaled_fp8_quant", "tensor"),
    "_C.dynamic_per_token_scaled_fp8_quant": ("scaled_fp8_quant", "token"),
    "_C.per_token_group_fp8_quant": ("scaled_fp8_quant", "group"),
    "_C.static_scaled_int8_quant": ("scaled_int8_quant", "given"),
    "_C.dynamic_scaled_int8_quant": ("scaled_int8_quant", "token"),
}
"""Quantizations by kernel, with the kind of their scale; a given scale is an operand."""

_FLOATS = ("bf16", "f16", "f32")


def scaled_linear(op: Op, context: Context) -> Rewrite:
    """``scaled_linear(x, w, x_scale, w_scale[, bias])`` has a row of ``w`` per output, whatever layout the kernel takes."""
    if op.target == "vllm.fp8_gemm_nt_op":
        x, x_scale, w, w_scale = op.operands
        return replace(op, target="scaled_linear", operands=(x, w, x_scale, w_scale), attrs=())
    if op.target not in ("_C.cutlass_scaled_mm", "aten._scaled_mm"):
        return None
    x, w, x_scale, w_scale, *bias = op.operands
    transposed = context.defs[w]
    if transposed.target != "transpose" or transposed.attr("order") != _SWAPPED:
        return None
    return replace(
        op, target="scaled_linear", operands=(x, transposed.operands[0], x_scale, w_scale, *bias), attrs=()
    )


def packed_linear(op: Op, context: Context) -> Rewrite:
    """``packed_linear(x, ...)``: one kernel that scales, unpacks or quantizes within; its scheme says what it is given.

    It has the engine's name, and operands in the order of its arguments.
    """
    dialect, _, name = op.target.rpartition(".")
    if dialect not in ("_C", "vllm") or op.attr("scheme") is None or len(op.results) != 1 or len(op.operands) < 2:
        return None
    x, result = context.type(op.operands[0]), op.results[0].type
    if x.dtype not in _FLOATS or result.dtype not in _FLOATS or x.shape[:-1] != result.shape[:-1]:
        return None
    return replace(op, target="packed_linear", attrs=attributes(kernel=name, scheme=op.attr("scheme")))


def scaled_quant(op: Op, context: Context) -> Rewrite:
    """Kernels that scale to eight bits differ in what shares a scale: a token, a group, the tensor; or it is given."""
    if op.target not in _QUANTS:
        return None
    target, scale = _QUANTS[op.target]
    kept = {"group_size": op.attr("group_size")} if scale == "group" else {}
    return replace(op, target=target, attrs=attributes(scale=scale, **kept))


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
