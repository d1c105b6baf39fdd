"""The operations that a lowered graph may hold: what kind of work each is and what it costs.

FLOPs and bytes are sympy expressions in the symbols of the operand types, plus those that only a batch can tell:
``A`` experts of the rank that receive at least one token, and those of stateful operations (``dooly.ir.stateful``,
``recurrent``).

FLOPs count additions, multiplications, divisions and transcendental functions, one each; a multiply-add is two.
Moving, choosing, comparing and converting elements counts none, and integer arithmetic on indices is not told apart.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

import sympy

from dooly.ir import recurrent, stateful
from dooly.ir.call import Call, Rule
from dooly.ir.expr import Expr, normal, symbol
from dooly.ir.types import Attribute

__all__ = ["BETWEEN_STAGES", "OPSET", "TABLE_ROWS", "Kind", "Spec", "fewest_points", "kind_of", "spec_of"]


class Kind(Enum):
    """The bound of an operation, which decides how passes and the executor treat it."""

    SOURCE = "source"
    VIEW = "view"
    MEMORY = "memory"
    GEMM = "gemm"
    ATTENTION = "attention"
    RECURRENT = "recurrent"
    BATCHED = "batched"
    MOE = "moe"
    COLLECTIVE = "collective"
    REGION = "region"
    UNKNOWN = "unknown"

    @property
    def stateful(self) -> bool:
        """Whether the operation keeps something for each request, so that its cost depends on more than sizes."""
        return self in (Kind.ATTENTION, Kind.RECURRENT)


_ZERO = sympy.Integer(0)
TABLE_ROWS = sympy.Integer(32768)
"""Rows of the table that stands for all tables of which single rows are read: more than a step has tokens, and for a
vocabulary of usual width more bytes than a cache holds."""


@dataclass(frozen=True)
class Spec:
    """Kind and cost rules of one target.

    Attributes:
        flops: floating-point operations, a multiply-add as two.
        gathers: operands that are tables, each with the operand that holds its indices: one row is read per index.
        bytes: memory traffic; by default each operand read once (gathered ones by row), each result written once.
        batch: request symbols that the cost depends on beside those in the types.
        passed: attributes whose value a kernel is merely passed, with what stands for all of them: a float for floats,
            an integer for integers, None for leaving them out.
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


def _route_flops(call: Call) -> Expr:
    """The score of each expert: an exponential and what normalizes it."""
    return normal(4 * call.operands[0].numel)


def _expert_weights(call: Call) -> Expr:
    """Elements of the matrices of one expert; this rank holds the experts that the first axis counts."""
    matrices = [operand for operand in call.operands if len(operand.shape) == 3]
    return normal(sum((matrix.numel / matrix.shape[0] for matrix in matrices), _ZERO))


def _moe_flops(call: Call) -> Expr:
    """Two per weight of each expert chosen, of which this rank computes its share under uniform routing."""
    tokens, experts = call.operands[0].shape[0], call.integer("experts")
    here = experts if call.attrs.get("local_experts") is None else call.integer("local_experts")
    weights = _expert_weights(call) if call.attrs.get("scheme") is None else _packed_expert_weights(call)
    return normal(2 * tokens * call.integer("top_k") * here / experts * weights)


def _packed_expert_weights(call: Call) -> Expr:
    """Elements of the matrices of one expert where storage holds several in one: up (and gate), and down."""
    up = 1 if str(call.attrs.get("activation", "")).endswith("_no_mul") else 2
    return normal((up + 1) * call.integer("hidden") * call.integer("intermediate"))


def _moe_bytes(call: Call) -> Expr:
    """Weights (biases, scales) of the activated experts once, hidden states in and out, routing in."""
    chosen = [operand for operand in call.operands[2:] if operand.dtype == "i32" and len(operand.shape) == 2]
    experts = [operand for operand in call.operands[2:] if len(operand.shape) > 1 and operand not in chosen]
    weights = sum((operand.bytes / operand.shape[0] for operand in experts), _ZERO)
    others = sum((operand.bytes for operand in call.operands if operand not in experts), _ZERO)
    return symbol("A") * weights + others + call.results[0].bytes


def _sdpa_flops(call: Call) -> Expr:
    """Two products over the (query, key) pairs that are attended: of a causal square, those on and below its diagonal."""
    query, key, value = (operand.shape for operand in call.operands[:3])
    pairs = query[-2] * (query[-2] + 1) / 2 if call.attrs.get("is_causal") else query[-2] * key[-2]
    heads = normal(call.operands[0].numel / (query[-1] * query[-2]))
    return normal(2 * heads * pairs * (query[-1] + value[-1]))


def _memory(flops: int, gathers: Mapping[int, int] | None = None, **passed: Attribute) -> Spec:
    return Spec(Kind.MEMORY, _per_element(flops), gathers or {}, passed=passed)


def _commutative(flops: int, **passed: Attribute) -> Spec:
    return Spec(Kind.MEMORY, _per_element(flops), passed=passed, commutes=True)


_VIEWS = ("reshape", "slice", "split", "transpose", "expand", "insert")
_OTHER_VIEWS = ("as_strided", "diagonal", "select", "unbind", "unfold")
"""Further functions of ATen that return a view of what they are given."""


def _recurrent(flops: Rule, bytes_: Rule, *batch: str) -> Spec:
    return Spec(Kind.RECURRENT, flops, bytes=bytes_, batch=("R", *batch))


BETWEEN_STAGES = ("send", "recv")
"""Operations between pipeline stages, outside of any CUDA graph: a whole model has none of them."""

OPSET: Mapping[str, Spec] = {
    **dict.fromkeys(("input", "weight"), Spec(Kind.SOURCE, _none, bytes=_none)),
    **dict.fromkeys((*_VIEWS, *_OTHER_VIEWS), Spec(Kind.VIEW, _none, bytes=_none)),
    **dict.fromkeys(("linear", "matmul", "packed_linear", "scaled_linear"), Spec(Kind.GEMM, _linear_flops)),
    "attention": Spec(
        Kind.ATTENTION,
        stateful.attention_flops,
        bytes=stateful.attention_bytes,
        batch=("P", "R", "S"),
        passed={"scale": None, "soft_cap": 50.0},
    ),
    "scaled_dot_product_attention": Spec(Kind.BATCHED, _sdpa_flops, passed={"scale": None}),
    "mla_attention": Spec(
        Kind.ATTENTION,
        stateful.mla_flops,
        bytes=stateful.mla_bytes,
        batch=("P", "Pp", "R", "S", "Sp", "Tp"),
        passed={"scale": None},
    ),
    "causal_conv1d": _recurrent(recurrent.convolution_flops, recurrent.convolution_bytes),
    "selective_scan": _recurrent(recurrent.scan_flops, recurrent.scan_bytes),
    "mamba2_mixer": _recurrent(recurrent.mamba2_flops, recurrent.mamba2_bytes, "Tp"),
    "gated_delta_rule": _recurrent(recurrent.delta_rule_flops, recurrent.delta_rule_bytes, "Tp"),
    "moe": Spec(Kind.MOE, _moe_flops, bytes=_moe_bytes, batch=("A",), passed={"scaling": 2.5, "swiglu_limit": 7.0}),
    "moe_route": Spec(Kind.MEMORY, _route_flops, passed={"scaling": 2.5}),
    **dict.fromkeys(("all_reduce", "all_gather", "reduce_scatter"), Spec(Kind.COLLECTIVE, _none)),
    **dict.fromkeys(BETWEEN_STAGES, Spec(Kind.COLLECTIVE, _none, bytes=lambda call: call.results[0].bytes)),
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
    **dict.fromkeys(("neg", "exp", "tanh", "abs", "reciprocal", "pow", "rsqrt", "cos", "sin"), _memory(1)),
    **dict.fromkeys(("amax", "mean", "sum"), Spec(Kind.MEMORY, lambda call: call.operands[0].numel)),
    "layer_norm": Spec(Kind.MEMORY, lambda call: normal(5 * call.operands[0].numel)),
    "arange": _memory(0),
    "index": Spec(Kind.MEMORY, _none, bytes=lambda call: 2 * call.results[0].bytes + call.operands[-1].bytes),
    **dict.fromkeys(("scaled_fp8_quant", "scaled_int8_quant"), _memory(3)),
    "silu": _memory(4),
    "silu_and_mul": _memory(5),
    "silu_and_mul_quant": _memory(8),
    "sigmoid": _memory(4),
    "softmax": _memory(4),
    "gelu": _memory(9),
    "gelu_tanh_and_mul": _memory(10),
    "clamp": _memory(0, min=-1.0, max=1.0),
    **dict.fromkeys(("cast", "copy", "cat", "stack", "fill", "where", "argmax"), _memory(0)),
    **dict.fromkeys(("constant_pad_nd", "sequence_chunk"), _memory(0)),
    "masked_fill": _memory(0, value=0.0),
    **dict.fromkeys(("ge", "gt", "le", "lt"), _memory(0, other=1.0)),
    **dict.fromkeys(("eq", "ne"), _commutative(0, other=1.0)),
    **dict.fromkeys(("bitwise_and", "bitwise_or", "logical_and", "logical_or"), _commutative(0)),
    "bitwise_not": _memory(0),
}
"""Targets by name.  Of what is not here, ATen's functions that multiply no matrices are memory-bound, and anything else
is an explicit unknown that ``cover`` reports."""

_UNKNOWN = Spec(Kind.UNKNOWN, _none)
_ELEMENTS = _memory(1)
_COMPUTES = re.compile(r"mm|matmul|dot|conv|einsum|attention|fft|linalg|lstm|gru|rnn")
"""Parts of the names of ATen's functions that do more than some operations for each element."""


def spec_of(target: str) -> Spec:
    """The rules of a target.

    A function of ATen that the table does not list counts one FLOP for each element that it returns.  An unknown target
    counts no FLOPs and its operands and results as bytes.
    """
    if (listed := OPSET.get(target)) is not None:
        return listed
    return _ELEMENTS if target.startswith("aten.") and not _COMPUTES.search(target) else _UNKNOWN


def fewest_points(axes: int) -> int:
    """Distinct points that tell how the time of an operation depends on so many axes, at least."""
    return 3 if axes == 1 else 5


def kind_of(target: str) -> Kind:
    """The kind of a target; ``region`` is a kind of its own, named after itself."""
    return Kind.REGION if target == "region" else spec_of(target).kind
