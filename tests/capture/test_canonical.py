"""Configurations whose class has two names for one number, and models that the engine cannot import."""

import json
from pathlib import Path

import pytest

from dooly.capture import Options, capture_stages
from dooly.capture.canonical import canonical
from dooly.errors import CaptureError
from dooly.ir import Program, verify

pytestmark = pytest.mark.engine

BIGCODE = {
    "architectures": ["GPTBigCodeForCausalLM"],
    "model_type": "gpt_bigcode",
    "torch_dtype": "bfloat16",
    "vocab_size": 512,
    "n_positions": 256,
    "n_layer": 4,
    "n_embd": 96,
    "n_head": 6,
    "multi_query": True,
    "activation_function": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
}


def test_of_two_names_for_one_number_the_class_takes_the_second():
    both = canonical({**BIGCODE, "hidden_size": 128, "num_attention_heads": 8})
    assert (both["hidden_size"], both["num_attention_heads"]) == (128, 8)
    assert "n_embd" not in both
    assert canonical(BIGCODE)["hidden_size"] == 96


def test_a_model_with_two_names_for_one_number_is_captured(tmp_path: Path):
    config = {**BIGCODE, "hidden_size": 128, "num_attention_heads": 8, "num_key_value_heads": 1}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (graph,) = capture_stages(tmp_path, Options())
    verify(Program((graph,)))
    assert (graph.config_values["H"], graph.config_values["Nq"]) == (128, 8)


def test_a_package_that_the_engine_lacks_is_named(tmp_path: Path):
    """The engine's own message is that its log tells."""
    from vllm.model_executor.models.registry import ModelRegistry

    from dooly.capture.build import imported

    ModelRegistry.register_model("PlantedForCausalLM", "absent_package.model:PlantedForCausalLM")
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["PlantedForCausalLM"]}))
    try:
        with (
            pytest.raises(
                CaptureError, match="m: the engine cannot import PlantedForCausalLM: No module named 'absent"
            ),
            imported("m", str(tmp_path)),
        ):
            raise ValueError("failed to be inspected")
    finally:
        del ModelRegistry.models["PlantedForCausalLM"]
