"""canonicalize: one spelling for each piece of work, whatever platform or layer wrote it."""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import sympy

from dooly.errors import PassError
from dooly.ir import Free, Graph, Kind, Op, Program, TensorType, Value, attributes, kind_of
from dooly.ir.expr import Expr
from dooly.ir.opset import OPSET

__all__ = ["RULES", "Canonicalize"]


@dataclass(frozen=True)
class Context:
    """What a rule may look at: definitions seen so far, and how often each value is read."""

    defs: Mapping[str, Op]
    uses: Mapping[str, int]

    def type(self, name: str) -> TensorType:
        """Type of a value defined before."""
        return next(value.type for value in self.defs[name].results if value.name == name)


Rewrite = Op | str | None
Rule = Callable[[Op, Context], Rewrite]
"""A new op, the name of the value that the op merely repeats, or None to leave it."""


@dataclass(frozen=True)
class Canonicalize:
    """Apply ``RULES`` to every operation until none fires, drop what nothing reads, name values after their module.

    Nodes of what is dropped become free, so the partition of captured nodes stays exact.
    Needs ``annotate-shapes`` and ``expand-opaque``.  Keeps shapes, taint, counts and module paths.  Idempotent.

    >>> from dooly.ir import parse_program
    >>> text = '''graph "g" { config H = 4, I = 8
    ...   request T
    ...   captured 2
    ...   %x = input() : f32[T, H]
    ...   %w = weight() : f32[I, H] at "m.weight"
    ...   %t = aten.t(%w) : f32[H, I] nodes 0 at "m"
    ...   %y = aten.mm(%x, %t) : f32[T, I] nodes 1 at "m"
    ...   return %y }'''
    >>> print(Canonicalize().run(parse_program(text)).graphs[0].ops[-1].target)
    linear
    """

    name: ClassVar[str] = "canonicalize"

    def run(self, program: Program, /) -> Program:
        return program.map_graphs(lambda graph: _rename(_drop_dead(_rewrite(graph))))


def _rewrite(graph: Graph) -> Graph:
    uses = Counter(name for op in graph.ops for name in op.operands)
    uses.update(graph.outputs)
    defs: dict[str, Op] = {}
    alias: dict[str, str] = {}
    absorbed: set[str] = set()
    kept: list[Op] = []
    free: list[Free] = []
    context = Context(defs, uses)
    for original in graph.ops:
        op = replace(original, operands=tuple(alias.get(name, name) for name in original.operands))
        result = _apply(op, context)
        if isinstance(result, str):
            alias[op.name] = result
            uses[result] += uses[op.name] - 1
            free.append(Free("view", op.nodes))
            continue
        kept.append(result)
        defs |= {value.name: result for value in result.results}
        if len(result.nodes) > len(op.nodes):
            absorbed |= {
                name for name in op.operands if defs[name].nodes and set(defs[name].nodes) <= set(result.nodes)
            }
    outputs = tuple(alias.get(name, name) for name in graph.outputs)
    return replace(graph.with_ops([op for op in kept if op.name not in absorbed], free), outputs=outputs)


def _apply(op: Op, context: Context) -> Op | str:
    """Rules in turn until none fires.  Each makes the op strictly simpler, so this ends.

    Raises:
        PassError: the op lacks an operand, a result or an attribute that every op of its target has.
    """
    while True:
        for rule in RULES:
            try:
                result = rule(op, context)
            except (IndexError, KeyError, TypeError, ValueError) as error:
                where = op.path or "no module"
                raise PassError(f"%{op.name} at {where} is no well-formed {op.target}: {error}") from error
            if isinstance(result, str):
                return result
            if result is not None and result != op:
                op = result
                break
        else:
            return op


def _drop_dead(graph: Graph) -> Graph:
    live = set(graph.outputs)
    kept: list[Op] = []
    free: list[Free] = []
    for op in reversed(graph.ops):
        if kind_of(op.target) is Kind.SOURCE and op.target == "input":
            kept.append(op)
        elif any(value.name in live for value in op.results):
            kept.append(op)
            live.update(op.operands)
        elif op.nodes:
            reason = {Kind.VIEW: "view", Kind.SOURCE: "constant"}.get(kind_of(op.target), "dead")
            free.append(Free(reason, op.nodes))
    return graph.with_ops(reversed(kept), free)


def _rename(graph: Graph) -> Graph:
    """Names from the last words of the module path, numbered from the second on."""
    taken: Counter[str] = Counter()
    names: dict[str, str] = {}
    for op in graph.ops:
        for value in op.results:
            words = [word for word in op.path.split(".") if word and not word.isdigit()]
            base = "_".join(words[-2:] if op.target == "weight" else words[-1:]) or op.target
            base = re.sub(r"\W", "_", base)
            taken[base] += 1
            names[value.name] = base if taken[base] == 1 else f"{base}.{taken[base]}"

    def renamed(value: Value) -> Value:
        return replace(value, name=names[value.name])

    ops = tuple(
        replace(op, operands=tuple(names[n] for n in op.operands), results=tuple(map(renamed, op.results)))
        for op in graph.ops
    )
    return replace(graph, ops=ops, outputs=tuple(names[n] for n in graph.outputs))


# --- rules: one idea each ---------------------------------------------------------------------------------------------


def drop_identity(op: Op, context: Context) -> Rewrite:
    """``detach``, ``alias``, and views and casts that change nothing, repeat their operand."""
    if op.target in ("aten.detach", "aten.alias", "aten.lift_fresh_copy"):
        return op.operands[0]
    if op.target in ("reshape", "cast", "expand") and context.type(op.operands[0]) == op.results[0].type:
        return op.operands[0]
    if op.target == "slice" and context.type(op.operands[0]) == op.results[0].type:
        return op.operands[0]
    return None


_RESHAPES = ("view", "_unsafe_view", "reshape", "unsqueeze", "squeeze", "flatten", "unflatten")


def reshape(op: Op, context: Context) -> Rewrite:
    """Every operation that only re-reads the same elements in order is ``reshape``; two in a row are one."""
    if op.target.removeprefix("aten.") in _RESHAPES and op.target.startswith("aten."):
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
        a, b = (_axis(op, name, rank) for name in ("dim0", "dim1"))
        order[a], order[b] = order[b], order[a]
        return replace(op, target="transpose", attrs=attributes(order=tuple(order)))
    if op.target == "aten.permute":
        return replace(op, target="transpose", attrs=attributes(order=op.attr("dims")))
    return None


def _axis(op: Op, name: str, rank: int, default: int = 0) -> int:
    value = op.attr(name)
    axis = int(value) if isinstance(value, Expr) else default
    return axis % rank if rank else 0


def linear(op: Op, context: Context) -> Rewrite:
    """A product with a transposed weight is ``linear``: its second operand has one row per output."""
    if op.target == "aten.linear":
        return replace(op, target="linear", attrs=())
    matrix = {"aten.mm": 1, "aten.addmm": 2}.get(op.target)
    if matrix is None:
        return None
    source = context.defs[op.operands[matrix]]
    if source.target != "transpose" or source.attr("order") != (sympy.Integer(1), sympy.Integer(0)):
        return None
    weight = source.operands[0]
    operands = (op.operands[0], weight) if matrix == 1 else (op.operands[1], weight, op.operands[0])
    return replace(op, target="linear", operands=operands, attrs=())


def split(op: Op, context: Context) -> Rewrite:
    """Splits say only along which axis; the sizes are in the types."""
    if op.target in ("aten.split_with_sizes", "aten.split", "aten.chunk", "aten.unbind"):
        rank = len(context.type(op.operands[0]).shape)
        if op.target == "aten.unbind":
            return None
        return replace(op, target="split", attrs=attributes(dim=_axis(op, "dim", rank)))
    return None


def slice_(op: Op, context: Context) -> Rewrite:
    """A slice says axis and start; where it ends is in the type."""
    if op.target != "aten.slice" or op.attr("step") not in (None, sympy.Integer(1)):
        return None
    rank = len(op.results[0].type.shape)
    start = op.attr("start")
    return replace(
        op, target="slice", attrs=attributes(dim=_axis(op, "dim", rank), start=0 if start is None else start)
    )


def cast(op: Op, context: Context) -> Rewrite:
    """Conversions of the element type are ``cast``."""
    if op.target in ("aten._to_copy", "aten.to"):
        return replace(op, target="cast", attrs=())
    return None


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
    """Root-mean-square norms of every platform, plain or with the residual added first; epsilon changes no work."""
    plain = op.target in ("vllm_ir.rms_norm", "_C.rms_norm")
    if not plain and op.target not in ("vllm_ir.fused_add_rms_norm", "_C.fused_add_rms_norm"):
        return None
    return replace(op, target="rms_norm" if plain else "add_rms_norm", attrs=())


def rotary(op: Op, context: Context) -> Rewrite:
    """Positions, query, key, table."""
    if op.target != "_C.rotary_embedding":
        return None
    kept = {name: op.attr(name) for name in ("head_size", "is_neox")}
    return replace(op, target="rotary_embedding", attrs=attributes(**kept))


def silu_and_mul(op: Op, context: Context) -> Rewrite:
    """``silu(x[:, :I]) * x[:, I:]`` is one operation, as CUDA's fused kernel has it."""
    if op.target == "_C.silu_and_mul":
        return replace(op, target="silu_and_mul", attrs=())
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


_COMMUTATIVE = frozenset({"add", "mul", "bitwise_and", "bitwise_or", "logical_and", "logical_or", "eq", "ne"})


def plain_name(op: Op, context: Context) -> Rewrite:
    """An operation of the op set has one name, whatever dialect or in-place form it came in."""
    dialect, _, name = op.target.rpartition(".")
    name = name.rstrip("_")
    if dialect in ("aten", "_C") and name in OPSET and name not in (*_RESHAPES, "index_select"):
        return replace(op, target=name, attrs=tuple((key, value) for key, value in op.attrs if value is not None))
    return None


def collective(op: Op, context: Context) -> Rewrite:
    """Collectives by their plain name, with the group and its number of ranks."""
    name = op.target.removeprefix("vllm.")
    if op.target.startswith("vllm.") and name in ("all_reduce", "all_gather", "reduce_scatter"):
        attrs = dict(op.attrs)
        if "dim" in attrs:
            attrs |= dict(attributes(dim=_axis(op, "dim", len(op.results[0].type.shape))))
        return replace(op, target=name, attrs=attributes(**attrs))
    return None


def commute(op: Op, context: Context) -> Rewrite:
    """Operands of commutative operations: those of higher rank first, then by definition order."""
    if op.target not in _COMMUTATIVE or len(op.operands) != 2:
        return None
    order = {name: index for index, name in enumerate(context.defs)}
    ordered = tuple(sorted(op.operands, key=lambda name: (-len(context.type(name).shape), order[name])))
    return replace(op, operands=ordered) if ordered != op.operands else None


RULES: tuple[Rule, ...] = (
    reshape,
    transpose,
    linear,
    split,
    slice_,
    cast,
    argmax,
    index_select,
    fill,
    embedding,
    norm,
    rotary,
    collective,
    silu_and_mul,
    plain_name,
    commute,
    drop_identity,
)
