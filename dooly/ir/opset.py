"""The operations that a lowered graph may hold: what kind of work each is and what it costs.

FLOPs and bytes are sympy expressions in the symbols of the operand types, plus three that only a batch can tell:
``P`` attended (query, key) pairs, ``S`` key-value rows read, ``A`` experts that receive at least one token.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import sympy

from dooly.errors import VerifyError
from dooly.ir.expr import Expr, normal, symbol
from dooly.ir.types import ITEM_BYTES, Attribute, TensorType

__all__ = ["OPSET", "Call", "Kind", "Spec", "kind_of", "spec_of"]


class Kind(Enum):
    """What bounds an operation, and so how passes and the executor treat it."""

    SOURCE = "source"
    VIEW = "view"
    MEMORY = "memory"
    GEMM = "gemm"
    ATTENTION = "attention"
    MOE = "moe"
    COLLECTIVE = "collective"
    REGION = "region"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Call:
    """An operation as its cost rule sees it."""

    operands: Sequence[TensorType]
    results: Sequence[TensorType]
    attrs: Mapping[str, Attribute]

    def integer(self, name: str) -> Expr:
        """An attribute that is an integer expression.

        Raises:
            VerifyError: it is missing or something else.
        """
        value = self.attrs.get(name)
        if not isinstance(value, Expr):
            raise VerifyError(f"attribute {name} must be an integer expression, found {value!r}")
        return value


Rule = Callable[[Call], Expr]
_ZERO = sympy.Integer(0)


@dataclass(frozen=True)
class Spec:
    """Kind and cost rules of one target.

    Attributes:
        flops: floating-point operations, a multiply-add as two.
        gathers: operands of which only as many rows are read as the first result has.
        bytes: memory traffic; by default each operand read once (gathered ones by row), each result written once.
        batch: request symbols that the cost depends on beside those in the types.
    """

    kind: Kind
    flops: Rule
    gathers: tuple[int, ...] = ()
    bytes: Rule | None = None
    batch: tuple[str, ...] = ()

    def read_bytes(self, call: Call, operand: int) -> Expr:
        """Bytes read of one operand."""
        type_ = call.operands[operand]
        if operand in self.gathers and type_.shape:
            rows = call.results[0].shape[0] if call.results[0].shape else sympy.Integer(1)
            return normal(type_.bytes / type_.shape[0] * rows)
        return type_.bytes

    def total_bytes(self, call: Call) -> Expr:
        """Bytes read and written."""
        if self.bytes is not None:
            return normal(self.bytes(call))
        read = sum((self.read_bytes(call, i) for i in range(len(call.operands))), _ZERO)
        return normal(read + sum((result.bytes for result in call.results), _ZERO))


def _per_element(flops: int) -> Rule:
    return lambda call: normal(flops * call.results[0].numel)


def _none(call: Call) -> Expr:
    return _ZERO


def _linear_flops(call: Call) -> Expr:
    return normal(2 * call.results[0].numel * call.operands[0].shape[-1])


def _attention_flops(call: Call) -> Expr:
    return normal(4 * call.integer("heads") * call.integer("head_size") * symbol("P"))


def _attention_bytes(call: Call) -> Expr:
    """Query and output, new keys and values written to the cache, cached rows read once per request."""
    item = ITEM_BYTES[call.results[0].dtype]
    kv_dtype = str(call.attrs.get("kv_dtype") or call.results[0].dtype)
    if kv_dtype not in ITEM_BYTES:
        raise VerifyError(f"attribute kv_dtype must be one of {', '.join(ITEM_BYTES)}, found {kv_dtype!r}")
    cache = ITEM_BYTES[kv_dtype]
    row = call.integer("kv_heads") * call.integer("head_size")
    tokens = call.results[0].shape[0]
    query = 2 * call.integer("heads") * call.integer("head_size") * tokens * item
    return query + 2 * row * tokens * (item + cache) + 2 * row * symbol("S") * cache


def _moe_flops(call: Call) -> Expr:
    tokens, hidden = call.operands[0].shape[0], call.integer("hidden")
    return 6 * tokens * call.integer("top_k") * hidden * call.integer("intermediate")


def _moe_bytes(call: Call) -> Expr:
    """Weights of the activated experts once, hidden states in and out, router logits in."""
    item = ITEM_BYTES[call.operands[0].dtype]
    weights = 3 * symbol("A") * call.integer("hidden") * call.integer("intermediate") * item
    return weights + call.operands[0].bytes + call.operands[1].bytes + call.results[0].bytes


def _memory(flops: int, *gathers: int) -> Spec:
    return Spec(Kind.MEMORY, _per_element(flops), gathers)


_ELEMENTWISE = (
    "add",
    "sub",
    "mul",
    "div",
    "neg",
    "masked_fill",
    "where",
    "copy",
    "cat",
    "ge",
    "gt",
    "le",
    "lt",
    "eq",
    "ne",
    "bitwise_and",
    "bitwise_or",
    "bitwise_not",
    "logical_and",
    "logical_or",
    "sigmoid",
    "tanh",
    "exp",
    "softmax",
    "gelu",
    "clamp",
)

OPSET: Mapping[str, Spec] = {
    **dict.fromkeys(("input", "weight"), Spec(Kind.SOURCE, _none, bytes=_none)),
    **dict.fromkeys(("reshape", "slice", "split", "transpose", "expand"), Spec(Kind.VIEW, _none, bytes=_none)),
    "linear": Spec(Kind.GEMM, _linear_flops),
    "attention": Spec(Kind.ATTENTION, _attention_flops, bytes=_attention_bytes, batch=("P", "R", "S")),
    "moe": Spec(Kind.MOE, _moe_flops, bytes=_moe_bytes, batch=("A",)),
    **dict.fromkeys(("all_reduce", "all_gather", "reduce_scatter"), Spec(Kind.COLLECTIVE, _none)),
    "embedding": _memory(0, 0),
    "vocab_parallel_embedding": _memory(0, 1),
    "index_select": _memory(0, 0),
    "rms_norm": _memory(4),
    "add_rms_norm": _memory(5),
    "rotary_embedding": Spec(
        Kind.MEMORY, lambda call: normal(3 * (call.results[0].numel + call.results[1].numel)), (3,)
    ),
    "silu_and_mul": _memory(5),
    "silu": _memory(4),
    "cast": _memory(0),
    "fill": _memory(0),
    "argmax": Spec(Kind.MEMORY, lambda call: call.operands[0].numel),
    **dict.fromkeys(_ELEMENTWISE, _memory(1)),
}
"""Targets by name.  Anything else is an explicit unknown that ``cover`` reports."""

_UNKNOWN = Spec(Kind.UNKNOWN, _none)


def spec_of(target: str) -> Spec:
    """The rules of a target; an unknown target counts no FLOPs and its operands and results as bytes."""
    return OPSET.get(target, _UNKNOWN)


def kind_of(target: str) -> Kind:
    """The kind of a target; ``region`` is a kind of its own, named after itself."""
    return Kind.REGION if target == "region" else spec_of(target).kind
