"""What an operation says of itself: signature, axes, FLOPs and bytes."""

from dataclasses import replace

import pytest
import sympy

from dooly.batch import Batch
from dooly.errors import VerifyError
from dooly.ir import (
    Kind,
    Operation,
    TensorType,
    Use,
    attributes,
    evaluate,
    format_expr,
    kind_of,
    parse_expr,
    parse_program,
    symbol,
)
from dooly.passes import run, select

REGION = """graph "g" {
  config H = 512, V = 8192
  request T
  captured 2
  %ids = input() : i64[T]
  %table = weight() : bf16[V, H] at "embed.weight"
  %n = weight() : bf16[H] at "norm.weight"
  %e = embedding(%table, %ids) : bf16[T, H] nodes 0
  %y = rms_norm(%e, %n) {eps = 1e-05} : bf16[T, H] nodes 1
  return %y
}
"""


def linear(k: int, n: int, **changes: object) -> Operation:
    text = f"""graph "g" {{
      config H = 1
      request T
      captured 0
      %x = input() : bf16[T, {k}]
      %w = weight() : bf16[{n}, {k}]
      %y = linear(%x, %w) : bf16[T, {n}]
      return %y
    }}"""
    (operation,) = run(parse_program(text), select("propagate-taint,lower")).operations
    return replace(operation, **changes)


def test_signature_is_the_work_and_not_its_users():
    a = linear(4096, 6144)
    assert a.signature == linear(4096, 6144, uses=(Use("m", "p", 3),), status="covered").signature
    assert a.signature != linear(6144, 4096).signature
    assert a.name == f"linear_{a.signature[:8]}"


def test_linear_costs():
    a = linear(4096, 6144)
    assert a.axes == ("T",)
    assert a.flops == parse_expr("2*T*4096*6144")
    assert a.bytes == parse_expr("2*(T*4096 + 6144*4096 + T*6144)")


def test_a_region_reads_gathered_rows_only_and_each_argument_once():
    (region,) = run(parse_program(REGION), select("propagate-taint,fuse-regions,lower")).operations
    assert region.target == "region"
    # token ids, one table row per token, the norm's weight once, the result
    assert format_expr(region.bytes) == format_expr(parse_expr("8*T + 2*512*T + 2*512 + 2*512*T"))
    assert region.flops == parse_expr("4*512*T")


ATTENTION = """operation @attention_NAME = attention(bf16[T, 32, 128], bf16[T, 8, 128], bf16[T, 8, 128]) \
{head_size = 128, heads = 32, kv_heads = 8} -> bf16[T, 32, 128]"""


def test_attention_costs_depend_on_the_batch():
    text = ATTENTION
    try:
        parse_program(text)
    except ValueError as error:
        name = str(error).split("expected @attention_")[1][:8]
        text = text.replace("NAME", name)
    (attention,) = parse_program(text).operations
    assert attention.axes == ("P", "R", "S", "T")
    assert attention.flops == parse_expr("4*32*128*P")
    assert attention.bytes == parse_expr("2*2*T*32*128 + 4*2*T*8*128 + 2*2*S*8*128")


def test_a_region_reads_the_parts_of_an_argument_once_each():
    text = """graph "g" {
      config H = 512
      request T
      captured 0
      %x = input() : bf16[T, 3*H]
      %a, %b, %c = split(%x) {dim = 1} : bf16[T, H], bf16[T, H], bf16[T, H]
      %s = silu(%a) : bf16[T, H]
      %r = reshape(%a) : bf16[T, H]
      %m = mul(%r, %b) : bf16[T, H]
      %t = add(%s, %m) : bf16[T, H]
      return %t
    }"""
    (region,) = run(parse_program(text), select("propagate-taint,fuse-regions,lower")).operations
    assert region.bytes == parse_expr("2*T*512*2 + 2*T*512")


@pytest.mark.parametrize(
    ("attrs", "message"),
    [
        ({"head_size": 64, "kv_heads": 1}, "attribute heads must be an integer expression, found None"),
        ({"head_size": 64, "heads": 1, "kv_dtype": "zz", "kv_heads": 1}, "kv_dtype must be one of .*, found 'zz'"),
    ],
)
def test_attention_that_does_not_say_what_its_cost_needs(attrs, message):
    q = TensorType("bf16", (symbol("T"), symbol("T"), symbol("T")))
    with pytest.raises(VerifyError, match=message):
        _ = Operation("attention", (q, q, q), (q,), attributes(**attrs)).bytes


def test_a_gather_reads_one_row_for_each_index_of_any_shape():
    text = """graph "g" { config H = 512, V = 8192 request R, T
      captured 0
      %ids = input() : i64[R, T]
      %table = weight() : bf16[V, H] at "embed.weight"
      %e = embedding(%table, %ids) : bf16[R, T, H]
      return %e }"""
    (region,) = run(parse_program(text), select("propagate-taint,fuse-regions,lower")).operations
    assert region.bytes == parse_expr("8*R*T + 2*512*R*T + 2*512*R*T")


@pytest.mark.parametrize("target", ["copy", "cat", "where", "masked_fill", "cast", "argmax", "ge", "bitwise_and"])
def test_moving_choosing_and_comparing_counts_no_flops(target):
    x = TensorType("bf16", (symbol("T"), symbol("T")))
    operation = Operation(target, (x, x), (x,))
    assert operation.flops == 0
    assert operation.bytes == 3 * x.bytes


def test_latent_attention_absorbs_decode_and_expands_prefill():
    heads, latent, nope, rope, value = 16, 512, 128, 64, 96
    rows = [symbol("T")]
    shapes = ([heads, nope + rope], [latent], [1, rope])
    operands = [TensorType("bf16", (*rows, *map(sympy.Integer, shape))) for shape in shapes]
    weight = TensorType("bf16", (sympy.Integer(heads * (nope + value)), sympy.Integer(latent)))
    attrs = attributes(heads=heads, latent=latent, nope=nope, rope=rope, value=value, kv_dtype="f8e4m3")
    result = TensorType("bf16", (*rows, sympy.Integer(heads * value)))
    operation = Operation("mla_attention", (*operands, weight), (result,), attrs)
    up = 2 * latent * (nope + value)
    decode, prefill = Batch.of((1, 99), (1, 4)).attention(), Batch.of((40, 100)).attention()
    assert evaluate(operation.flops, decode) == heads * (2 * up + (100 + 5) * 2 * (2 * latent + rope))
    pairs = 40 * 100 + 40 * 41 // 2
    assert evaluate(operation.flops, prefill) == heads * (140 * up + pairs * 2 * (nope + rope + value))
    more = Batch.of((1, 199), (1, 4)).attention()
    assert evaluate(operation.bytes, more) - evaluate(operation.bytes, decode) == 100 * (latent + rope)
    assert evaluate(operation.bytes, prefill) > 2 * 140 * heads * (nope + rope + value) * 2


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ("aten.softplus", Kind.MEMORY),
        ("aten.native_layer_norm", Kind.MEMORY),
        ("aten.topk", Kind.MEMORY),
        ("select", Kind.VIEW),
        ("aten.convolution", Kind.UNKNOWN),
        ("aten.baddbmm", Kind.UNKNOWN),
        ("_C.softplus", Kind.UNKNOWN),
    ],
)
def test_functions_of_aten_are_memory_bound_unless_they_multiply_matrices(target: str, kind: Kind) -> None:
    assert kind_of(target) is kind
