"""Mixtures of experts and latent attention: what the engine hides is in the open, and spreads over ranks as it does."""

import pytest

from dooly.capture import capture, resolve_model
from dooly.capture.parallel import Parallel
from dooly.errors import CaptureError
from dooly.ir import Graph, Kind, Op, Program, evaluate
from dooly.passes import PIPELINE, run
from tests.captures import captured

pytestmark = pytest.mark.engine

DISPATCH = ["all_gather", "all_gather", "all_gather", "moe", "reduce_scatter"]


def annotated(graph: Graph) -> Graph:
    return run(Program((graph,)), PIPELINE[:4]).graphs[0]


def layer(graph: Graph, number: int) -> list[Op]:
    return [op for op in graph.ops if op.path.startswith(f"model.layers.{number}.") and op.target != "weight"]


def test_router_and_shared_experts_are_ordinary_operations_of_their_modules() -> None:
    ops = layer(annotated(captured("deepseek-v3")), 4)
    linear = {op.path: [str(dim) for dim in op.results[0].type.shape] for op in ops if op.target == "linear"}
    assert linear["model.layers.4.mlp.gate"] == ["T", "E"]
    assert linear["model.layers.4.mlp.shared_experts.gate_up_proj"] == ["T", "2*Es*Im"]
    assert linear["model.layers.4.mlp.shared_experts.down_proj"] == ["T", "H"]
    assert linear["model.layers.4.self_attn.fused_qkv_a_proj"] == ["T", "Dr + Rkv + Rq"]
    assert [op.path for op in ops if op.target == "silu_and_mul"] == ["model.layers.4.mlp.shared_experts.act_fn"]
    sources = {op.path: op.source for op in ops}
    assert sources["model.layers.4.mlp.experts"].startswith("vllm/model_executor/layers/fused_moe/runner/")


def test_a_dense_first_layer_has_no_experts() -> None:
    graph = annotated(captured("deepseek-v2-lite"))
    assert "moe" not in {op.target for op in layer(graph, 0)}
    assert "moe" in {op.target for op in layer(graph, 1)}


def test_attributes_decide_what_the_experts_cost() -> None:
    (experts,) = (op for op in layer(annotated(captured("deepseek-v3")), 4) if op.target == "moe")
    attrs = {name: str(value) for name, value in experts.attrs}
    assert (attrs["experts"], attrs["top_k"], attrs["groups"], attrs["top_groups"]) == ("E", "K", "G", "Kg")
    assert (attrs["intermediate"], attrs["scoring"], attrs["correction_bias"]) == ("Im", "sigmoid", "True")
    (biased,) = (op for op in layer(annotated(captured("gpt-oss-20b")), 1) if op.target == "moe")
    assert (biased.attr("activation"), biased.attr("bias"), len(biased.operands)) == ("swigluoai", True, 6)


def test_latent_attention_is_one_operation_that_reads_its_up_projection() -> None:
    graph = annotated(captured("deepseek-v2-lite"))
    weights = {op.name: op.path for op in graph.ops if op.target == "weight"}
    (attention,) = (op for op in layer(graph, 0) if op.target == "mla_attention")
    assert weights[attention.operands[-1]] == "model.layers.0.self_attn.kv_b_proj.weight"
    sizes = [str(attention.attr(name)) for name in ("heads", "latent", "nope", "rope", "value")]
    assert sizes == ["Nq", "Rkv", "Dn", "Dr", "Dv"]
    assert dict(captured("deepseek-v2-lite").settings)["backend"] == attention.attr("backend")


def test_the_two_deepseeks_differ_in_the_query_projection_alone() -> None:
    """Of the first layer: V3 projects the query down and up again, V2-Lite at once."""
    small, large = ([op.path for op in layer(annotated(captured(f"deepseek-{name}")), 0)] for name in ("v2-lite", "v3"))
    assert {path.rpartition(".")[2] for path in set(large) ^ set(small)} == {
        "fused_qkv_a_proj",
        "q_a_layernorm",
        "q_b_proj",
        "kv_a_proj_with_mqa",
        "q_proj",
    }


def test_stretched_rotary_tables_have_rows_by_rule() -> None:
    for model in ("deepseek-v2-lite", "gpt-oss-20b"):
        tables = [op for op in captured(model).ops if op.path.endswith("cos_sin_cache")]
        assert {str(op.results[0].type.shape[0]) for op in tables} == {"Fp*No"}


@pytest.mark.parametrize(
    ("model", "tp", "dp", "local"),
    [
        ("qwen3-30b-a3b", 1, 4, "E/DP"),
        ("qwen3-30b-a3b", 8, 1, "E/TP"),
        ("deepseek-v3", 2, 4, "E/(DP*TP)"),
        ("deepseek-v2-lite", 1, 7, "FloorDiv(E, DP) + 1"),
    ],
)
def test_experts_are_spread_over_all_ranks(model: str, tp: int, dp: int, local: str) -> None:
    graph = capture(model, tp=tp, dp=dp, expert_parallel=True)
    program = run(Program((graph,)), PIPELINE)
    assert not [op for op in program.operations if op.kind is Kind.UNKNOWN]
    *_, experts = (op for op in annotated(graph).ops if op.target == "moe")
    assert str(experts.attr("local_experts")) == local
    inside = [
        op.target for op in annotated(graph).ops if op.path == experts.path and op.target in (*DISPATCH, "all_reduce")
    ]
    assert inside == (DISPATCH if dp > 1 else ["moe", "all_reduce"])
    (lowered,) = (op for op in program.operations if op.target == "moe")
    rows = int(evaluate(experts.results[0].type.shape[0], {**graph.config_values, "T": 64}))
    share = int(str(lowered.attr("local_experts"))) / graph.config_values["E"]
    sizes = [graph.config_values[name] for name in ("H", "Im", "K")]
    assert rows == 64 * dp
    assert evaluate(lowered.flops, {"T": 64}) == pytest.approx(6 * rows * sizes[0] * sizes[1] * sizes[2] * share)


def test_without_expert_parallelism_ranks_slice_each_expert() -> None:
    graph = annotated(capture("mixtral-8x7b", tp=2, dp=2))
    (experts,) = (op for op in layer(graph, 0) if op.target == "moe")
    assert (str(experts.attr("intermediate")), experts.attr("local_experts")) == ("I/(DP*TP)", None)
    groups = {op.attr("group") for op in layer(graph, 0) if op.target in ("all_gather", "reduce_scatter")}
    assert groups == {"dp"}


@pytest.mark.parametrize(
    ("model", "parallel", "message"),
    [
        ("llama-3.1-8b", Parallel(2, 1, expert=True), "expert parallelism needs a mixture of experts"),
        ("llama-3.1-8b", Parallel(1, 2), "data-parallel ranks of a model without experts share nothing"),
        ("mixtral-8x7b", Parallel(1, 16, expert=True), "16 expert-parallel ranks are more than the 8 experts"),
        ("qwen3-30b-a3b", Parallel(4, 5), "20 ranks do not divide the 768 features of an expert"),
        ("qwen3-30b-a3b", Parallel(1, 0), "data parallel size 0 is not a positive integer"),
    ],
)
def test_what_cannot_be_spread_is_one_line(model: str, parallel: Parallel, message: str) -> None:
    with pytest.raises(CaptureError, match=message):
        parallel.check(resolve_model(model)[1], model)
