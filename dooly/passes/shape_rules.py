"""Shapes of results from shapes of operands, for captured operations whose rule is fixed."""

from collections.abc import Callable, Mapping, Sequence

from dooly.ir import Op, TensorType, normal
from dooly.ir.expr import Expr

__all__ = ["infer"]

Shape = tuple[Expr, ...]
Rule = Callable[[Op, Sequence[TensorType]], "list[Shape] | None"]


def infer(op: Op, operands: Sequence[TensorType]) -> list[Shape] | None:
    """Shapes of the results, or None if this operation has no rule."""
    rule = _RULES.get(op.target)
    return rule(op, operands) if rule else None


def _integer(op: Op, name: str) -> Expr | None:
    value = op.attr(name)
    return value if isinstance(value, Expr) else None


def _like(index: int, results: int = 1) -> Rule:
    return lambda _, operands: [operands[index].shape] * results


def _broadcast(op: Op, operands: Sequence[TensorType]) -> list[Shape]:
    rank = max(len(operand.shape) for operand in operands)
    shape: list[Expr] = []
    for axis in range(-rank, 0):
        dims = [operand.shape[axis] for operand in operands if len(operand.shape) >= -axis]
        shape.append(next((dim for dim in dims if dim != 1), dims[0]))
    return [tuple(shape)]


def _mm(op: Op, operands: Sequence[TensorType]) -> list[Shape]:
    return [(operands[0].shape[0], operands[1].shape[1])]


def _t(op: Op, operands: Sequence[TensorType]) -> list[Shape]:
    return [operands[0].shape[::-1]]


def _linear(op: Op, operands: Sequence[TensorType]) -> list[Shape]:
    return [(*operands[0].shape[:-1], operands[1].shape[0])]


def _embedding(op: Op, operands: Sequence[TensorType]) -> list[Shape]:
    return [(*operands[1].shape, operands[0].shape[-1])]


def _split(op: Op, operands: Sequence[TensorType]) -> list[Shape] | None:
    sizes, dim = op.attr("split_sizes"), _integer(op, "dim")
    if not isinstance(sizes, tuple) or dim is None:
        return None
    shape, axis = operands[0].shape, int(dim)
    if normal(sum((s for s in sizes if isinstance(s, Expr)), normal(shape[axis] * 0))) != shape[axis]:
        return None
    shapes: list[Shape] = []
    for size in sizes:
        new = list(shape)
        new[axis] = size if isinstance(size, Expr) else shape[axis]
        shapes.append(tuple(new))
    return shapes


def _all_gather(op: Op, operands: Sequence[TensorType]) -> list[Shape] | None:
    ranks, dim = _integer(op, "ranks"), _integer(op, "dim")
    if ranks is None or dim is None:
        return None
    shape = list(operands[0].shape)
    shape[int(dim)] = normal(shape[int(dim)] * ranks)
    return [tuple(shape)]


_RULES: Mapping[str, Rule] = {
    "aten.mm": _mm,
    "aten.t": _t,
    "aten.linear": _linear,
    "aten.embedding": _embedding,
    "aten.split_with_sizes": _split,
    **dict.fromkeys(
        ("aten.add", "aten.sub", "aten.mul", "aten.div", "aten.bitwise_and", "aten.bitwise_or"), _broadcast
    ),
    **dict.fromkeys(("aten.silu", "aten.bitwise_not", "aten.neg", "aten.sigmoid", "aten.masked_fill"), _like(0)),
    "vllm_ir.rms_norm": _like(0),
    "vllm_ir.fused_add_rms_norm": _like(0, 2),
    "vllm.all_reduce": _like(0),
    "vllm.all_gather": _all_gather,
}
