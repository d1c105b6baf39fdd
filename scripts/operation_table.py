"""Write docs/reference/operations.md, operations and their costs, from the rules: python scripts/operation_table.py"""

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from dooly.errors import VerifyError
from dooly.files import write_text
from dooly.ir import Attribute, Kind, TensorType, format_expr, format_type, parse_expr, symbol
from dooly.ir.opset import OPSET, Call, Spec

__all__ = ["main", "operation_table"]

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "operations.md"

HEAD = """# Operations and what they cost

Written by `make docs` from the rules in `dooly/ir/opset.py`; a test compares. Each row shows one operation on
operands of the types given: small letters are sizes that the configuration sets, capitals come with the request (`T`
tokens). A cost may depend on more than the types; the symbols that only a batch can tell are `P` attended (query,
key) pairs, `S` key-value rows read, `R` requests, `A` experts of the rank that receive a token.

**FLOPs** count additions, multiplications, divisions and transcendental functions, one each; a multiply-add is two.
Moving, choosing, comparing and converting elements counts none. **Bytes** are what must cross memory: each operand
once, of a table one row for each index, each result once. A `region` of several operations reads each of its
arguments and writes each of its results once, and its FLOPs are the sum. A function of ATen that is not in this table
and multiplies no matrices is memory-bound and counts one FLOP for each element that it returns. Any other
operation that is not in this table is an explicit unknown: it counts its operands and results as bytes, and `cover`
reports it as unsupported.

**Does not count** lists the attributes that a kernel is merely passed: they do not tell operations apart.
"""

SAMPLES: Mapping[str, tuple[str, str]] = {
    "linear": ("bf16[T, k]; bf16[n, k]", "bf16[T, n]"),
    "recv": ("", "bf16[T, n]"),
    "packed_linear": ("bf16[T, k]; i32[k/8, n]; bf16[k/128, n]", "bf16[T, n]"),
    "scaled_linear": ("f8e4m3[T, k]; f8e4m3[n, k]; f32[T, 1]; f32[1]", "bf16[T, n]"),
    "scaled_fp8_quant": ("bf16[T, n]", "f8e4m3[T, n]; f32[T, 1]"),
    "scaled_int8_quant": ("bf16[T, n]", "i8[T, n]; f32[T, 1]"),
    "silu_and_mul_quant": ("bf16[T, 2*n]; f32[1]", "f8e4m3[T, n]"),
    "amax": ("bf16[T, n]", "bf16[T]"),
    "matmul": ("bf16[T, k]; bf16[k, n]", "bf16[T, n]"),
    "embedding": ("bf16[v, n]; i64[T]", "bf16[T, n]"),
    "index_select": ("bf16[T, n]; i64[L]", "bf16[L, n]"),
    "vocab_parallel_embedding": ("i64[T]; bf16[v, n]", "bf16[T, n]"),
    "rms_norm": ("bf16[T, n]; bf16[n]", "bf16[T, n]"),
    "add_rms_norm": ("bf16[T, n]; bf16[T, n]; bf16[n]", "bf16[T, n]; bf16[T, n]"),
    "rotary_embedding": (
        "i64[T]; bf16[T, heads*d]; bf16[T, kv_heads*d]; bf16[m, d]",
        "bf16[T, heads*d]; bf16[T, kv_heads*d]",
    ),
    "silu_and_mul": ("bf16[T, 2*n]", "bf16[T, n]"),
    "attention": (
        "bf16[T, heads, head_size]; bf16[T, kv_heads, head_size]; bf16[T, kv_heads, head_size]",
        "bf16[T, heads, head_size]",
    ),
    "scaled_dot_product_attention": (
        "bf16[heads, T, head_size]; bf16[heads, T, head_size]; bf16[heads, T, head_size]",
        "bf16[heads, T, head_size]",
    ),
    "moe": (
        "bf16[T, hidden]; bf16[T, experts]; bf16[experts, 2*intermediate, hidden]; bf16[experts, hidden, intermediate]",
        "bf16[T, hidden]",
    ),
    "all_gather": ("bf16[T, n]", "bf16[T, n*ranks]"),
    "reduce_scatter": ("bf16[T, n]", "bf16[T, n/ranks]"),
    "argmax": ("f32[T, n]", "i64[T]"),
    "cast": ("bf16[T, n]", "f32[T, n]"),
    "fill": ("", "bf16[T, n]"),
    "where": ("bool[T, n]; bf16[T, n]; bf16[T, n]", "bf16[T, n]"),
    "masked_fill": ("bf16[T, n]; bool[T, n]", "bf16[T, n]"),
    "cat": ("bf16[T, n]; bf16[T, m]", "bf16[T, n + m]"),
}
"""Operand and result types by operation; those that are in none of these lists read and write one row type."""

ROW = "bf16[T, n]"
ARITHMETIC, COMPARISONS, LOGIC = (
    ("add", "sub", "mul", "div"),
    ("ge", "gt", "le", "lt", "eq", "ne"),
    ("bitwise_and", "bitwise_or", "logical_and", "logical_or"),
)
PAIRS = {
    **dict.fromkeys(ARITHMETIC, (f"{ROW}; {ROW}", ROW)),
    **dict.fromkeys(COMPARISONS, (f"{ROW}; {ROW}", "bool[T, n]")),
    **dict.fromkeys(LOGIC, ("bool[T, n]; bool[T, n]", "bool[T, n]")),
    "bitwise_not": ("bool[T, n]", "bool[T, n]"),
}


class _Symbolic(dict[str, Attribute]):
    """Every attribute is the symbol of its name."""

    def get(self, key: str, default: Attribute = None, /) -> Attribute:
        return default if key.endswith("dtype") else symbol(key)


def _types(text: str) -> list[TensorType]:
    found: list[TensorType] = []
    for part in filter(None, text.split("; ")):
        dtype, _, shape = part.removesuffix("]").partition("[")
        found.append(TensorType(dtype, tuple(map(parse_expr, shape.split(", ")))))
    return found


def operation_table() -> str:
    """The page.

    Raises:
        VerifyError: an operation's rule cannot say its cost for the sample types given here.
    """
    lines = [HEAD]
    for kind in Kind:
        names = [target for target, spec in OPSET.items() if spec.kind is kind]
        if not names or kind is Kind.SOURCE:
            continue
        lines.append(f"## {kind.value}\n")
        if kind is Kind.VIEW:
            lines.append(f"{_quoted(names)}: re-read the same memory, no FLOPs and no bytes.\n")
            continue
        alike: dict[tuple[str, ...], list[str]] = {}
        for name in names:
            alike.setdefault(_cells(name, OPSET[name]), []).append(name)
        lines += [
            "| operation | operands -> results | FLOPs | bytes | batch | does not count |",
            "|---|---|---|---|---|---|",
        ]
        lines += [f"| {_quoted(targets)} | {' | '.join(cells)} |" for cells, targets in alike.items()]
        lines.append("")
    return "\n".join(lines)


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _cells(target: str, spec: Spec) -> tuple[str, ...]:
    given, made = SAMPLES.get(target) or PAIRS.get(target) or (ROW, ROW)
    operands, results = _types(given), _types(made)
    call = Call(operands, results, _Symbolic())
    try:
        flops, n_bytes = spec.flops(call), spec.total_bytes(call)
    except (VerifyError, IndexError) as error:
        raise VerifyError(f"{target} needs sample types in scripts/operation_table.py: {error}") from error
    types = f"`{', '.join(map(format_type, operands)) or 'nothing'} -> {', '.join(map(format_type, results))}`"
    return types, f"`{format_expr(flops)}`", f"`{format_expr(n_bytes)}`", ", ".join(spec.batch), _quoted(spec.passed)


def main() -> int:
    """Write the page."""
    write_text(PAGE, operation_table())
    sys.stderr.write(f"wrote {PAGE}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
