"""Rules for the engine's own operations and for what reads tables of rows."""

from dataclasses import replace

import sympy

from dooly.ir import Op, attributes
from dooly.passes.rules.rule import Context, Rewrite, axis_of

__all__ = ["argmax", "collective", "embedding", "fill", "index_select", "norm", "rotary", "sequence_chunk", "silu_and_mul"]


def argmax(op: Op, context: Context) -> Rewrite:
    """The index of the largest element of each row."""
    return replace(op, target="argmax", attrs=()) if op.target in ("_C.greedy_argmax", "aten.argmax") else None


def index_select(op: Op, context: Context) -> Rewrite:
    """Picking rows, along the first axis, by one index tensor is ``index_select``."""
    if op.target in ("aten.index", "aten.index_select") and len(op.operands) == 2:
        source, index = map(context.type, op.operands)
        if op.results[0].type.shape != (*index.shape, *source.shape[1:]):
            return None
        return replace(op, target="index_select", attrs=())
    return None


def fill(op: Op, context: Context) -> Rewrite:
    """Tensors made of one value are ``fill``."""
    if op.target in ("aten.full", "aten.zeros", "aten.ones", "aten.full_like", "aten.zeros_like", "aten.ones_like"):
        return replace(op, target="fill", operands=(), attrs=())
    return None


def embedding(op: Op, context: Context) -> Rewrite:
    """Table first, indices second."""
    return replace(op, target="embedding", attrs=()) if op.target == "aten.embedding" else None


def norm(op: Op, context: Context) -> Rewrite:
    """Root-mean-square norms of every platform, plain or with the residual added first."""
    plain = op.target in ("vllm_ir.rms_norm", "_C.rms_norm")
    if not plain and op.target not in ("vllm_ir.fused_add_rms_norm", "_C.fused_add_rms_norm"):
        return None
    eps = next((op.attr(name) for name in ("epsilon", "eps", "variance_epsilon") if op.attr(name) is not None), None)
    return replace(op, target="rms_norm" if plain else "add_rms_norm", attrs=attributes(eps=eps))


def rotary(op: Op, context: Context) -> Rewrite:
    """Positions, query, key, table."""
    if op.target not in ("_C.rotary_embedding", "vllm.flashinfer_rotary_embedding"):
        return None
    kept = {name: op.attr(name) for name in ("head_size", "is_neox")}
    return replace(op, target="rotary_embedding", attrs=attributes(**kept))


def silu_and_mul(op: Op, context: Context) -> Rewrite:
    """``silu(x[:, :I]) * x[:, I:]`` is one operation, as CUDA's fused kernel has it."""
    if op.target in ("_C.silu_and_mul", "_C.silu_and_mul_quant"):
        return replace(op, target=op.target.removeprefix("_C."), attrs=())
    if op.target not in ("mul", "aten.mul") or len(op.operands) != 2:
        return None
    for gate, up in (op.operands, op.operands[::-1]):
        silu, right = context.defs[gate], context.defs[up]
        if silu.target != "silu" or right.target != "slice" or context.uses[gate] != 1:
            continue
        left = context.defs[silu.operands[0]]
        if left.target == "slice" and left.operands == right.operands and _are_halves(left, right, context):
            nodes = (*silu.nodes, *op.nodes)
            return replace(op, target="silu_and_mul", operands=left.operands, attrs=(), nodes=nodes)
    return None


def _are_halves(left: Op, right: Op, context: Context) -> bool:
    """Whether two slices of one value are the first and the second half of its last axis."""
    whole, half = context.type(left.operands[0]).shape, left.results[0].type.shape
    last = sympy.Integer(len(whole) - 1)
    return (
        left.attr("dim") == right.attr("dim") == last
        and (left.attr("start"), right.attr("start")) == (sympy.Integer(0), half[-1])
        and half == right.results[0].type.shape
        and whole[-1] == 2 * half[-1]
    )


def sequence_chunk(op: Op, context: Context) -> Rewrite:
    """This rank's share of the rows."""
    return replace(op, target="sequence_chunk") if op.target == "vllm.sequence_parallel_chunk_impl" else None


def collective(op: Op, context: Context) -> Rewrite:
    """Collectives by their plain name, with the group and its number of ranks."""
    if op.target in ("dooly.send", "dooly.recv"):  # of the rows of what is received, recv only knows the number
        name = op.target.removeprefix("dooly.")
        return replace(op, target=name, operands=op.operands if name == "send" else (), attrs=attributes(group="pp"))
    name = op.target.removeprefix("vllm.")
    if op.target.startswith("vllm.") and name in ("all_reduce", "all_gather", "reduce_scatter"):
        attrs = dict(op.attrs)
        if "dim" in attrs:
            attrs |= dict(attributes(dim=axis_of(op, "dim", len(op.results[0].type.shape))))
        return replace(op, target=name, attrs=attributes(**attrs))
    return None
