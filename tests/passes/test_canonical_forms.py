"""Equal work is equal text: regions in one order, numbers that change no cost in one value, views in one form."""

import itertools
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dooly.ir import Block, Op, Program, TensorType, Value, attributes, evaluate, parse_program, symbol
from dooly.passes import PIPELINE, run
from dooly.passes.canonical_block import in_canonical_order, with_plain_views
from dooly.passes.flow import flow_of, isomorphic

ROWS = TensorType("bf16", (symbol("T"), symbol("H")))


@st.composite
def blocks(draw: st.DrawFn) -> Block:
    """Straight-line element-wise code over equal types, full of symmetries."""
    args = [f"a{i}" for i in range(draw(st.integers(1, 4)))]
    live, ops = list(args), []
    for i in range(draw(st.integers(1, 8))):
        target = draw(st.sampled_from(["add", "mul", "sub", "silu"]))
        operands = tuple(draw(st.sampled_from(live)) for _ in range(1 if target == "silu" else 2))
        ops.append(Op(target, operands, (Value(f"v{i}", ROWS),)))
        live.append(f"v{i}")
    made = live[len(args) :]
    outputs = draw(st.lists(st.sampled_from(made), min_size=1, unique=True))
    return Block(tuple(Value(name, ROWS) for name in args), tuple(ops), tuple(outputs))


def shuffled(block: Block, seed: int) -> Block:
    """The same data flow in another order of arguments, operations and outputs, under other names."""
    rng = random.Random(seed)
    waiting, ready, ordered = list(block.ops), {value.name for value in block.args}, []
    while waiting:
        op = rng.choice([op for op in waiting if set(op.operands) <= ready])
        waiting.remove(op)
        ready.add(op.name)
        operands = list(op.operands)
        if op.target in ("add", "mul"):
            rng.shuffle(operands)
        ordered.append(replace(op, operands=tuple(operands)))
    names = {name: f"n{i}" for i, name in enumerate(rng.sample(sorted(ready), len(ready)))}

    def value(each: Value) -> Value:
        return replace(each, name=names[each.name])

    args, outputs = list(block.args), list(block.outputs)
    rng.shuffle(args)
    rng.shuffle(outputs)
    ops = (replace(o, operands=tuple(names[n] for n in o.operands), results=(value(o.results[0]),)) for o in ordered)
    return Block(tuple(map(value, args)), tuple(ops), tuple(names[name] for name in outputs))


@settings(max_examples=60)
@given(blocks(), st.integers(0, 2**32))
def test_one_data_flow_has_one_form(block, seed):
    form = in_canonical_order(block)
    assert in_canonical_order(shuffled(block, seed)) == form
    assert in_canonical_order(form) == form
    assert isomorphic(flow_of(block), flow_of(form))


@settings(max_examples=60)
@given(blocks(), blocks())
def test_one_form_means_one_data_flow(a, b):
    assert (in_canonical_order(a) == in_canonical_order(b)) == isomorphic(flow_of(a), flow_of(b))


def table(text: str, **sizes: object):
    return run(parse_program(text), PIPELINE).operations


def model(name: str, *, rows: int = 32000, eps: str = "1e-05", positions: int = 4096, scale: str = "0.088") -> str:
    return f"""graph "{name}" {{
  config D = 128, H = 4096, Np = {positions}, V = {rows}
  request T
  captured 0
  %ids = input() : i64[T]
  %positions = input() : i64[T]
  %w = weight() : bf16[V, H] at "embed.weight"
  %g = weight() : bf16[H] at "norm.weight"
  %table = weight() : bf16[Np, D] at "rotary.cos_sin_cache"
  %e = aten.embedding(%w, %ids) : bf16[T, H]
  %n = vllm_ir.rms_norm(%e, %g) {{epsilon = {eps}}} : bf16[T, H]
  %q, %k = aten.split_with_sizes(%n) {{dim = 1, split_sizes = [D*16, D*16]}} : bf16[T, 16*D], bf16[T, 16*D]
  %q2, %k2 = _C.rotary_embedding(%positions, %q, %k, %table) {{head_size = D, is_neox = true}} : bf16[T, 16*D], bf16[T, 16*D]
  %z = aten.mul(%q2) {{other = {scale}}} : bf16[T, 16*D]
  return %z, %k2
}}
"""


def test_what_cannot_change_the_cost_does_not_tell_regions_apart():
    text = model("a") + model("b", rows=128256, eps="1e-06", positions=131072, scale="2.5")
    (operation,) = table(text)
    assert {use.model for use in operation.uses} == {"a", "b"}
    assert "32000" not in str(operation.operands)


@pytest.mark.parametrize("other", [{"eps": "none"}, {"scale": "2"}])
def test_whether_a_number_is_there_and_of_which_kind_does(other):
    assert len(table(model("a") + model("b", **other))) == 2


def test_the_rows_of_a_table_stay_where_the_region_computes_the_indices():
    text = """graph "g" { config H = 64, V = 96 request T
      captured 0
      %ids = input() : i64[T]
      %w = weight() : bf16[V, H] at "embed.weight"
      %local = sub(%ids) {other = V} : i64[T]
      %e = embedding(%w, %local) : bf16[T, H]
      return %e }"""
    assert [str(dim) for dim in table(text)[0].operands[1].shape] == ["96", "64"]


def test_a_table_that_something_else_reads_too_keeps_its_rows():
    text = """graph "g" { config H = 64, V = 96 request T
      captured 0
      %ids = input() : i64[T]
      %w = weight() : bf16[V, H] at "embed.weight"
      %e = embedding(%w, %ids) : bf16[T, H]
      %s = silu(%w) : bf16[V, H]
      return %e, %s }"""
    assert {str(type_.shape[0]) for op in table(text) for type_ in op.operands} >= {"96"}


def test_views_that_say_the_same_are_said_once_and_none_is_returned():
    text = """args %x : f32[T, 8]
      %a, %b = split(%x) {dim = 1} : f32[T, 4], f32[T, 4]
      %c = slice(%x) {dim = 1, start = 0} : f32[T, 4]
      %s = silu(%a) : f32[T, 4]
      %t = silu(%c) : f32[T, 4]
      return %b, %s, %t"""
    header = 'graph "g" { config H = 8 request T captured 0 %x = input() : f32[T, 8]'
    (region,) = [op for op in parse_program(
        f"{header} %b, %s, %t = region(%x) : f32[T, 4], f32[T, 4], f32[T, 4] = {{ {text} }} return %s }}"
    ).graphs[0].ops if op.body]
    plain = with_plain_views(region.body)
    assert [op.target for op in plain.ops] == ["slice", "silu", "silu"]
    assert [op.operands[0] for op in plain.ops[1:]] == ["a", "a"]
    assert plain.outputs == ("s", "t")


def test_a_gemm_over_nested_rows_is_one_over_plain_rows():
    text = """graph "g" { config H = 64, I = 96 request R, T
      captured 0
      %x = input() : bf16[R, T, H]
      %w = weight() : bf16[I, H] at "up.weight"
      %y = aten.linear(%x, %w) : bf16[R, T, I]
      return %y }"""
    (operation,) = table(text)
    assert [len(type_.shape) for type_ in (*operation.operands, *operation.results)] == [2, 2, 2]
    assert evaluate(operation.flops, {"R": 2, "T": 3}) == 2 * 6 * 64 * 96


def test_a_copy_of_equal_type_is_work_and_reads_its_source_alone():
    text = """graph "g" { config H = 64 request T
      captured 0
      %x = input() : bf16[T, H]
      %a = aten._to_copy(%x) : bf16[T, H]
      %y = silu(%a) : bf16[T, H]
      %z = aten.copy_(%x, %y) : bf16[T, H]
      return %z }"""
    (operation,) = table(text)
    assert [op.target for op in operation.body.ops] == ["copy", "silu", "copy"]
    assert [len(op.operands) for op in operation.body.ops] == [1, 1, 1]
    assert operation.flops == 4 * 64 * symbol("T")




@pytest.mark.engine
def test_the_order_of_real_models_does_not_matter():
    from tests.captures import captured

    graphs = [captured(name) for name in ("llama-3.1-8b", "qwen3-8b", "mixtral-8x7b")]
    tables = {run(Program(tuple(order)), PIPELINE).operations for order in itertools.permutations(graphs)}
    assert len(tables) == 1
