"""Real captures: every size keeps its symbols, every node is accounted for, and models of a family have one text."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sympy

from dooly.capture import capture, list_models, resolve_model
from dooly.errors import CaptureError
from dooly.ir import Graph, evaluate, format_graph, normal, parse_program, symbol, symbols_of, verify_graph
from tests.captures import captured

pytestmark = pytest.mark.engine

RANKS = (1, 4)
PUBLISHED = ("llama-3.1-8b", "llama-3.1-70b", "qwen3-8b", "mixtral-8x7b", "mixtral-8x22b")


def body(graph: Graph) -> str:
    """The text of a graph without its name and values."""
    return "\n".join(line for line in format_graph(graph).splitlines() if not line.startswith(("graph ", "  config ")))


@pytest.mark.parametrize("tp", RANKS)
@pytest.mark.parametrize("model", PUBLISHED)
def test_the_graph_verifies_and_accounts_for_every_node(model: str, tp: int) -> None:
    graph = captured(model, tp)
    verify_graph(graph)
    nodes = [node for op in graph.ops for node in op.nodes] + [node for entry in graph.free for node in entry.nodes]
    assert sorted(nodes) == list(range(graph.captured))
    assert parse_program(format_graph(graph)).graphs == (graph,)


@pytest.mark.parametrize("tp", RANKS)
@pytest.mark.parametrize("pair", [("llama-3.1-8b", "llama-3.1-70b"), ("mixtral-8x7b", "mixtral-8x22b")])
def test_models_of_a_family_have_one_text(pair: tuple[str, str], tp: int) -> None:
    assert body(captured(pair[0], tp)) == body(captured(pair[1], tp))


@pytest.mark.parametrize("tp", RANKS)
@pytest.mark.parametrize("model", PUBLISHED)
def test_parameters_have_the_shapes_of_the_engine_and_only_constants_lack_symbols(model: str, tp: int) -> None:
    graph = captured(model, tp)
    expected = dict(plain_shapes(model, tp))
    weights = [op for op in graph.ops if op.target == "weight"]
    found = {op.path: tuple(evaluate(d, graph.config_values) for d in op.results[0].type.shape) for op in weights}
    assert found
    assert found == {path: expected[path] for path in found}
    assert {path for path in expected if path.startswith("model.") and path.endswith("weight")} <= found.keys()
    for op in weights:
        assert all(symbols_of(dim) for dim in op.results[0].type.shape), op.path


def plain_shapes(model: str, tp: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Shapes of the parameters and buffers of the model built by the engine from plain numbers, two layers deep."""
    from dooly.capture import Options, Parallel
    from dooly.capture.build import build
    from dooly.capture.layers import shorten

    name, config = resolve_model(model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dooly.capture.build.FIELDS", {})
        with build(shorten(config, range(2)), Options(Parallel(tp)), name) as built:
            for path, tensor in (*built.model.named_parameters(), *built.model.named_buffers()):
                yield path, tuple(int(dim) for dim in tensor.shape)


@pytest.mark.parametrize("tp", RANKS)
@pytest.mark.parametrize("model", ["llama-3.1-8b", "qwen3-8b", "mixtral-8x7b"])
def test_every_size_is_the_one_that_plain_numbers_give(model: str, tp: int) -> None:
    graph = captured(model, tp)
    values = {symbol(name): sympy.Integer(value) for name, value in graph.config_values.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dooly.capture.build.FIELDS", {})
        plain = capture(model, tp=tp)
    assert len(graph.ops) == len(plain.ops)
    for op, other in zip(graph.ops, plain.ops):
        # of numbers, PyTorch writes the slice of a vocabulary that needs no padding as what it is
        assert (op.target, other.target) == ("aten.slice", "aten.alias") or op.target == other.target
        types, numbers = ([result.type.map(values) for result in each.results] for each in (op, other))
        assert types == numbers, op.path
        assert other.target == "aten.alias" or at(op.attrs, values) == at(other.attrs, values), op.path


def at(attribute: Any, values: dict[Any, Any]) -> Any:
    """An attribute with its symbols replaced; FloorDiv of numbers is a number."""
    if isinstance(attribute, tuple):
        return tuple(at(item, values) for item in attribute)
    return normal(attribute.xreplace(values)) if hasattr(attribute, "xreplace") else attribute


def test_counts_say_how_often_the_whole_model_does_it() -> None:
    graph = captured("llama-3.1-70b")
    values = graph.config_values
    counts: dict[str, int] = {}
    for op in graph.ops:
        counts[op.target] = counts.get(op.target, 0) + int(evaluate(op.count, values))
    assert counts["vllm.unified_attention_with_output"] == 80
    assert counts["aten.mm"] == 4 * 80 + 1
    assert counts["vllm_ir.rms_norm"] + counts["vllm_ir.fused_add_rms_norm"] == 2 * 80 + 1
    assert counts["aten.embedding"] == 1


def test_what_attention_and_experts_say_about_themselves() -> None:
    graph = captured("mixtral-8x7b", 4)
    owners = {owner.path: dict(owner.attrs) for owner in graph.owners}
    attention = owners["model.layers.1.self_attn.attn"]
    assert str(attention["heads"]) == "Nq/TP"
    assert str(attention["kv_heads"]) == "Nkv/TP"
    assert str(attention["head_size"]) == "D"
    assert (attention["backend"], attention["kv_dtype"], attention["window"]) == ("CPU_ATTN", "bf16", None)
    experts = owners["model.layers.1.block_sparse_moe.experts"]
    assert [str(experts[name]) for name in ("experts", "top_k", "hidden", "intermediate")] == ["E", "K", "H", "I/TP"]
    assert (experts["activation"], experts["renormalize"], experts["backend"]) == ("silu", True, "CPU")
    shapes = {op.path: [str(dim) for dim in op.results[0].type.shape] for op in graph.ops if op.target == "weight"}
    names = experts["weights"]
    assert isinstance(names, tuple)
    assert [shapes[str(name)] for name in names] == [["E", "2*I/TP", "H"], ["E", "H", "I/TP"]]


def test_collectives_are_operations_over_a_symbolic_number_of_ranks() -> None:
    graph = captured("llama-3.1-8b", 4)
    reduces = [op for op in graph.ops if op.target == "vllm.all_reduce"]
    gathers = [op for op in graph.ops if op.target == "vllm.all_gather"]
    assert len(reduces) == 1 + 2 * 2
    assert {(op.attr("group"), str(op.attr("ranks"))) for op in (*reduces, *gathers)} == {("tp", "TP")}
    assert [str(dim) for dim in gathers[0].results[0].type.shape] == ["L", "64*FloorDiv(V + 63, 64)"]
    assert not any(op.target in ("vllm.all_reduce", "vllm.all_gather") for op in captured("llama-3.1-8b").ops)


def test_fewer_kv_heads_than_ranks_are_replicated() -> None:
    graph = captured("llama-3.1-8b", 16)
    assert {str(dict(owner.attrs)["kv_heads"]) for owner in graph.owners} == {"1"}
    weight = next(op for op in graph.ops if op.path.endswith("qkv_proj.weight"))
    assert evaluate(weight.results[0].type.shape[0], graph.config_values) == (2 + 2) * 128


def test_every_operation_of_a_layer_says_where_it_comes_from() -> None:
    graph = captured("qwen3-8b")
    inside = [op for op in graph.ops if op.target not in ("input", "weight", "aten.index")]
    assert all(op.path for op in inside)
    assert all(re.fullmatch(r"vllm/[\w/]+\.py:\d+", op.source) for op in inside)
    assert {op.path for op in inside if "rotary_embedding/" in op.source} == {
        "model.layers.0.self_attn.rotary_emb",
        "model.layers.1.self_attn.rotary_emb",
    }


def test_a_capture_leaves_nothing_behind_and_repeats() -> None:
    import torch

    before = torch.get_default_dtype()
    assert format_graph(capture("tiny-llama", tp=2)) == format_graph(capture("tiny-llama", tp=2))
    assert torch.get_default_dtype() is before
    assert not torch.distributed.is_initialized()


def test_an_engine_in_the_same_process_changes_nothing() -> None:
    from dooly.engine.local import start_engine
    from dooly.engine.settings import EngineSettings

    before = format_graph(capture("tiny-mixtral"))
    with start_engine(Path(capture.__code__.co_filename).parent.parent / "models" / "tiny-llama", EngineSettings()):
        assert format_graph(capture("tiny-mixtral")) == before
    assert format_graph(capture("tiny-mixtral")) == before


FAMILIES: dict[str, dict[str, Any]] = {
    "LlamaForCausalLM": {"model_type": "llama"},
    "Qwen3ForCausalLM": {"model_type": "qwen3"},
    "MixtralForCausalLM": {"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 3},
    "MistralForCausalLM": {"model_type": "mistral", "sliding_window": 4096},
    "Qwen2ForCausalLM": {"model_type": "qwen2"},
    "Phi3ForCausalLM": {"model_type": "phi3", "pad_token_id": 0, "original_max_position_embeddings": 4096},
    "Qwen3MoeForCausalLM": {
        "model_type": "qwen3_moe",
        "moe_intermediate_size": 768,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "norm_topk_prob": True,
    },
    "Gemma2ForCausalLM": {"model_type": "gemma2", "hidden_activation": "gelu_pytorch_tanh", "sliding_window": 4096},
    "Gemma3ForCausalLM": {"model_type": "gemma3_text", "sliding_window": 1024, "sliding_window_pattern": 3},
    "GptOssForCausalLM": {
        "model_type": "gpt_oss",
        "sliding_window": 128,
        "num_local_experts": 32,
        "num_experts_per_tok": 4,
    },
}


@pytest.mark.parametrize("architecture", FAMILIES)
def test_an_architecture_is_the_same_text_at_two_configurations(architecture: str, tmp_path: Path) -> None:
    shape = {
        "architectures": [architecture],
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "num_hidden_layers": 12,
        "vocab_size": 32000,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "torch_dtype": "bfloat16",
        "tie_word_embeddings": False,
        **FAMILIES[architecture],
    }
    changed = {
        "hidden_size": 3072,
        "intermediate_size": 7168,
        "num_attention_heads": 24,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "vocab_size": 50257,
        "max_position_embeddings": 8192,
        "sliding_window": 512,
        "moe_intermediate_size": 896,
        "num_experts": 64,
        "num_local_experts": 16,
        "num_experts_per_tok": 2,
    }
    texts: list[str] = []
    for name, config in (("one", shape), ("two", {**shape, **{k: v for k, v in changed.items() if shape.get(k)}})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config), encoding="utf-8")
        graph = capture(tmp_path / name)
        verify_graph(graph)
        texts.append(body(graph))
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "gelu"}, "the engine cannot build this model: ValueError: Unsupported activation: gelu"),
        ({"model_type": "no-such-type"}, "the engine refuses this configuration"),
        ({"rope_scaling": {"rope_type": "no-such-rope", "factor": 2.0}}, "the engine"),
    ],
)
def test_what_the_engine_refuses_is_one_line(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    _, config = resolve_model("tiny-llama")
    (tmp_path / "config.json").write_text(json.dumps({**config, **changes}), encoding="utf-8")
    with pytest.raises(CaptureError) as caught:
        capture(tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_second_platform_needs_a_second_process() -> None:
    captured("llama-3.1-8b")
    with pytest.raises(CaptureError, match="vLLM is set up for platform cpu in this process"):
        capture("llama-3.1-8b", platform="h100")


ELSEWHERE = """
import sys
from dooly.capture import capture
from dooly.ir import format_graph, verify_graph
for argument in sys.argv[2:]:
    model, tp, backend = argument.split(",")
    graph = capture(model, tp=int(tp), platform=sys.argv[1], backend=backend or None)
    verify_graph(graph)
    print(format_graph(graph))
"""


def test_an_absent_gpu_is_stood_in_for() -> None:
    wanted = [
        ("llama-3.1-8b", 1, ""),
        ("llama-3.1-70b", 1, ""),
        ("mixtral-8x7b", 4, "flashinfer"),
        ("qwen3-8b", 4, "TRITON_ATTN"),
    ]
    arguments = [f"{model},{tp},{backend}" for model, tp, backend in wanted]
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, "h100", *arguments], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    graphs = parse_program(done.stdout).graphs
    assert [graph.name for graph in graphs] == [model for model, _, _ in wanted]
    assert [dict(graph.settings)["backend"] for graph in graphs] == [
        "FLASH_ATTN",
        "FLASH_ATTN",
        "FLASHINFER",
        "TRITON_ATTN",
    ]
    assert {dict(graph.settings)["platform"] for graph in graphs} == {"h100"}
    targets = {op.target for op in graphs[0].ops}
    assert {"aten.silu", "aten.cat", "vllm_ir.rms_norm"} <= targets  # compiled: no custom operations
    assert not any(target.startswith("_C.") for target in targets)
    assert body(graphs[0]) == body(graphs[1])


RECURRENT_ELSEWHERE = """
from collections import Counter
from dooly.capture import capture
from dooly.ir import Program
from dooly.passes import PIPELINE, run
for model in ("mamba2-2.7b", "qwen3-next-80b-a3b"):
    operations = run(Program((capture(model, platform="h100"),)), PIPELINE).operations
    found = Counter()
    for operation in operations:
        found[operation.target] += operation.count
    kinds = ("mamba2_mixer", "gated_delta_rule", "attention")
    print({operation.status for operation in operations}, *(found[kind] for kind in kinds))
"""


def test_recurrent_models_on_an_absent_gpu() -> None:
    done = subprocess.run(
        [sys.executable, "-c", RECURRENT_ELSEWHERE], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == ["{'uncovered'} 64 0 0", "{'uncovered'} 0 36 12"]


def test_every_bundled_model_can_be_captured() -> None:
    for model in list_models():
        assert captured(model).config_values["Nl"] == resolve_model(model)[1]["num_hidden_layers"]
