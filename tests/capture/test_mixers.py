"""Recurrent mixers: what is opaque says what decides its cost, what is not is ordinary work, sizes keep symbols."""

import json
from pathlib import Path
from typing import Any

import pytest

from dooly.capture import capture
from dooly.ir import Graph, Program, format_graph, symbols_of, verify_graph
from dooly.passes import PIPELINE, run
from tests.tiny_models import tiny_models

pytestmark = pytest.mark.engine

CHANGES: dict[str, dict[str, Any]] = {
    "Cohere2ForCausalLM": {"hidden_size": 96, "num_attention_heads": 6, "sliding_window": 16, "vocab_size": 500},
    "Mamba2ForCausalLM": {"hidden_size": 96, "num_heads": 6, "state_size": 32, "vocab_size": 500, "chunk_size": 64},
    "JambaForCausalLM": {"hidden_size": 128, "mamba_d_state": 8, "mamba_dt_rank": 16, "intermediate_size": 96},
    "Qwen3NextForCausalLM": {
        "linear_key_head_dim": 64,
        "linear_num_key_heads": 3,
        "linear_num_value_heads": 6,
        "hidden_size": 128,
        "num_experts": 12,
        "shared_expert_intermediate_size": 160,
    },
}


def graph_of(folder: Path, config: dict[str, Any], tp: int = 1) -> Graph:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    graph = capture(folder, tp=tp)
    verify_graph(graph)
    return graph


def body(graph: Graph) -> str:
    return "\n".join(line for line in format_graph(graph).splitlines() if not line.startswith(("graph ", "  config ")))


@pytest.mark.parametrize("architecture", CHANGES)
def test_an_architecture_is_the_same_text_at_two_configurations(architecture: str, tmp_path: Path) -> None:
    config = tiny_models()[architecture]
    one = graph_of(tmp_path / "one", config)
    other = graph_of(tmp_path / "other", {**config, **CHANGES[architecture]})
    assert one.config != other.config
    assert body(one) == body(other)
    for op in one.ops:
        if op.target == "weight" and not op.path.endswith("shared_expert_gate.weight"):
            assert any(symbols_of(dim) for dim in op.results[0].type.shape), op.path


@pytest.mark.parametrize(
    ("architecture", "kinds"),
    [
        ("Mamba2ForCausalLM", {"mamba2_mixer"}),
        ("JambaForCausalLM", {"attention", "causal_conv1d", "selective_scan", "moe"}),
        ("Qwen3NextForCausalLM", {"attention", "gated_delta_rule", "moe"}),
    ],
)
@pytest.mark.parametrize("tp", [1, 2])
def test_nothing_is_unknown(architecture: str, kinds: set[str], tp: int, tmp_path: Path) -> None:
    config = tiny_models()[architecture]
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    graph = graph_of(tmp_path / "model", {**config, **heads} if "num_attention_heads" in config else config, tp)
    program = run(Program((graph,)), PIPELINE)
    assert {op.status for op in program.operations} == {"uncovered"}
    assert kinds <= {op.target for op in program.operations}


def test_what_a_mamba_2_mixer_says_about_itself(tmp_path: Path) -> None:
    graph = graph_of(tmp_path / "model", tiny_models()["Mamba2ForCausalLM"], 2)
    assert "H | D*Nm" in format_graph(graph)
    owner = dict(graph.owners[0].attrs)
    said = [str(owner[name]) for name in ("heads", "head_size", "state_size", "groups", "conv_kernel", "chunk_size")]
    assert said == ["Nm/TP", "D", "Ds", "1", "C", "Q"]
    assert (owner["conv_dtype"], owner["state_dtype"]) == ("f32", "f32")
    path = "backbone.layers.0.mixer"
    assert owner["weights"] == tuple(f"{path}.{name}" for name in ("conv1d.weight", "conv1d.bias", "A", "D", "dt_bias"))


def test_the_projections_of_a_mamba_1_mixer_are_ordinary_products(tmp_path: Path) -> None:
    graph = graph_of(tmp_path / "model", tiny_models()["JambaForCausalLM"])
    products = [
        op for op in graph.ops if op.target in ("aten.mm", "aten.addmm") and op.path.startswith("model.layers.0.mamba")
    ]
    assert [op.path.rpartition(".")[2] for op in products] == ["in_proj", "x_proj", "dt_proj", "out_proj"]
    assert [str(op.results[0].type.shape[-1]) for op in products] == ["2*H*X", "2*Ds + Rt", "H*X", "H"]
