"""The operations that a lowered graph may hold: what kind of work each is and what it costs.

FLOPs and bytes are sympy expressions in the symbols of the operand types, plus three that only a batch can tell:
``P`` attended (query, key) pairs, ``S`` key-value rows read, ``A`` experts that receive at least one token.

FLOPs count additions, multiplications, divisions and transcendental functions, one each; a multiply-add is two.  Moving,
choosing, comparing and converting elements counts none, and integer arithmetic on indices is not told apart.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

import sympy

from dooly.errors import VerifyError
from dooly.ir.expr import Expr, normal, symbol
from dooly.ir.types import ITEM_BYTES, Attribute, TensorType

__all__ = ["OPSET", "TABLE_ROWS", "Call", "Kind", "Spec", "kind_of", "spec_of"]


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
TABLE_ROWS = sympy.Integer(32768)
"""Rows of the table that stands for all tables of which single rows are read: more than a step has tokens, and of usual
width more bytes than a cache holds."""


@dataclass(frozen=True)
class Spec:
    """Kind and cost rules of one target.

    Attributes:
        flops: floating-point operations, a multiply-add as two.
        gathers: operands that are tables, each with the operand that holds its indices: one row is read per index.
        bytes: memory traffic; by default each operand read once (gathered ones by row), each result written once.
        batch: request symbols that the cost depends on beside those in the types.
        passed: attributes whose value a kernel is merely passed, with what stands for all of them: a float for floats, an
            integer for integers, None for leaving them out.
        commutes: whether the order of the operands means nothing.
    """

    kind: Kind
    flops: Rule
    gathers: Mapping[int, int] = field(default_factory=dict[int, int])
    bytes: Rule | None = None
    batch: tuple[str, ...] = ()
    passed: Mapping[str, Attribute] = field(default_factory=dict[str, Attribute])
    commutes: bool = False

    def read_bytes(self, call: Call, operand: int) -> Expr:
        """Bytes read of one operand."""
        type_ = call.operands[operand]
        if operand in self.gathers and type_.shape:
            return normal(type_.bytes / type_.shape[0] * call.operands[self.gathers[operand]].numel)
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


def _memory(flops: int, gathers: Mapping[int, int] | None = None, **passed: Attribute) -> Spec:
    return Spec(Kind.MEMORY, _per_element(flops), gathers or {}, passed=passed)


def _commutative(flops: int, **passed: Attribute) -> Spec:
    return Spec(Kind.MEMORY, _per_element(flops), passed=passed, commutes=True)


OPSET: Mapping[str, Spec] = {
    **dict.fromkeys(("input", "weight"), Spec(Kind.SOURCE, _none, bytes=_none)),
    **dict.fromkeys(("reshape", "slice", "split", "transpose", "expand"), Spec(Kind.VIEW, _none, bytes=_none)),
    **dict.fromkeys(("linear", "matmul"), Spec(Kind.GEMM, _linear_flops)),
    "attention": Spec(
        Kind.ATTENTION,
        _attention_flops,
        bytes=_attention_bytes,
        batch=("P", "R", "S"),
        passed={"scale": None, "soft_cap": 50.0},
    ),
    "moe": Spec(Kind.MOE, _moe_flops, bytes=_moe_bytes, batch=("A",)),
    **dict.fromkeys(("all_reduce", "all_gather", "reduce_scatter"), Spec(Kind.COLLECTIVE, _none)),
    "embedding": _memory(0, {0: 1}),
    "vocab_parallel_embedding": _memory(
        0,
        {1: 0},
        org_vocab_start_index=_ZERO,
        org_vocab_end_index=TABLE_ROWS,
        num_org_vocab_padding=_ZERO,
        added_vocab_start_index=TABLE_ROWS,
        added_vocab_end_index=TABLE_ROWS,
    ),
    "index_select": _memory(0, {0: 1}),
    "rms_norm": _memory(4, eps=1e-6),
    "add_rms_norm": _memory(5, eps=1e-6),
    "rotary_embedding": Spec(
        Kind.MEMORY, lambda call: normal(3 * (call.results[0].numel + call.results[1].numel)), {3: 0}
    ),
    **dict.fromkeys(("add", "mul"), _commutative(1, other=1.0)),
    **dict.fromkeys(("sub", "div"), _memory(1, other=1.0)),
    **dict.fromkeys(("neg", "exp", "tanh"), _memory(1)),
    "silu": _memory(4),
    "silu_and_mul": _memory(5),
    "sigmoid": _memory(4),
    "softmax": _memory(4),
    "gelu": _memory(9),
    "clamp": _memory(0, min=-1.0, max=1.0),
    **dict.fromkeys(("cast", "copy", "cat", "fill", "where", "argmax"), _memory(0)),
    "masked_fill": _memory(0, value=0.0),
    **dict.fromkeys(("ge", "gt", "le", "lt"), _memory(0, other=1.0)),
    **dict.fromkeys(("eq", "ne"), _commutative(0, other=1.0)),
    **dict.fromkeys(("bitwise_and", "bitwise_or", "logical_and", "logical_or"), _commutative(0)),
    "bitwise_not": _memory(0),
}
"""Targets by name.  Anything else is an explicit unknown that ``cover`` reports."""

_UNKNOWN = Spec(Kind.UNKNOWN, _none)


def spec_of(target: str) -> Spec:
    """The rules of a target; an unknown target counts no FLOPs and its operands and results as bytes."""
    return OPSET.get(target, _UNKNOWN)


def kind_of(target: str) -> Kind:
    """The kind of a target; ``region`` is a kind of its own, named after itself."""
    return Kind.REGION if target == "region" else spec_of(target).kind
