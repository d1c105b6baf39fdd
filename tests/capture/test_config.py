"""Configurations are found, completed and refused before anything heavy is imported."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dooly.capture import capture, list_models, note_of, resolve_model
from dooly.capture.config import config_values, fields_of
from dooly.capture.parallel import Parallel
from dooly.errors import CaptureError, DoolyError

Writer = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    """Writes a valid configuration with some fields changed (``...`` removes one) and returns its folder."""

    def writer(**changes: Any) -> Path:
        _, config = resolve_model("llama-3.1-8b")
        config = {name: value for name, value in {**config, **changes}.items() if value is not ...}
        folder = tmp_path / "my-model"
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        return folder

    return writer


def test_the_bundled_models_are_listed_and_valid() -> None:
    assert {"llama-3.1-8b", "llama-3.1-70b", "qwen3-8b", "mixtral-8x7b", "tiny-llama", "tiny-mixtral"} <= set(
        list_models()
    )
    for name in list_models():
        resolved, config = resolve_model(name)
        assert resolved == name
        assert config_values(config)["H"] == config["hidden_size"]


def test_a_model_is_a_bundled_name_a_folder_or_a_file(write: Writer) -> None:
    folder = write()
    assert resolve_model(folder) == resolve_model(str(folder / "config.json"))
    assert resolve_model(folder)[0] == "my-model"
    other = folder / "renamed.json"
    other.write_text((folder / "config.json").read_text(encoding="utf-8"), encoding="utf-8")
    assert resolve_model(other)[0] == "renamed"


def test_defaults_are_filled_in(write: Writer) -> None:
    _, config = resolve_model(write(head_dim=..., num_key_value_heads=...))
    assert config["head_dim"] == 128
    assert config["num_key_value_heads"] == 32


def test_a_head_size_need_not_divide_the_hidden_size(write: Writer) -> None:
    assert resolve_model(write(hidden_size=4000, head_dim=128))[1]["head_dim"] == 128


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 4100, "head_dim": ...}, "hidden_size 4100 is not divisible by num_attention_heads 32"),
        ({"num_key_value_heads": 5}, "num_attention_heads 32 is not a multiple of num_key_value_heads 5"),
        ({"intermediate_size": 0}, "intermediate_size is 0, expected a positive integer"),
        ({"intermediate_size": -1}, "intermediate_size is -1, expected a positive integer"),
        ({"vocab_size": 32000.5}, "vocab_size is 32000.5, expected a positive integer"),
        ({"vocab_size": "32000"}, "vocab_size is '32000', expected a positive integer"),
        ({"num_hidden_layers": True}, "num_hidden_layers is True, expected a positive integer"),
        ({"num_hidden_layers": 10**7}, "num_hidden_layers is 10000000, expected at most 1,024"),
        ({"hidden_size": 10**30}, f"hidden_size is {10**30}, expected at most 2,147,483,647"),
        ({"num_hidden_layers": None}, "num_hidden_layers is None, expected a positive integer"),
        ({"hidden_size": ...}, "hidden_size is missing"),
        ({"model_type": ...}, "model_type is missing"),
        ({"architectures": ..., "model_type": []}, "model_type is '[]', expected a name"),
        ({"architectures": ["LlamaForCausalML"]}, "did you mean LlamaForCausalLM"),
        (
            {"architectures": ["BertModel"]},
            "unknown architecture 'BertModel', did you mean BertLMHeadModel?; the engine has ",
        ),
        ({"architectures": []}, "architectures is [], expected a list of one name"),
        ({"architectures": ..., "model_type": ...}, "architectures is None, expected a list of one name"),
        ({"num_local_experts": 4, "num_experts_per_tok": 8}, "num_experts_per_tok 8 is more than the 4 experts"),
    ],
)
def test_invalid_fields(write: Writer, changes: dict[str, Any], message: str) -> None:
    folder = write(**changes)
    with pytest.raises(CaptureError) as caught:
        resolve_model(folder)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(folder / "config.json"))
    assert "\n" not in str(caught.value)


def test_a_field_that_others_decide_must_agree(tmp_path: Path) -> None:
    _, config = resolve_model("mamba2-2.7b")
    (tmp_path / "config.json").write_text(json.dumps({**config, "expand": 3}), encoding="utf-8")
    with pytest.raises(CaptureError, match=r"expand is 3, but other fields say D\*Nm/H"):
        resolve_model(tmp_path)


def test_any_architecture_that_the_engine_knows_is_taken(write: Writer) -> None:
    for name in ("OlmoeForCausalLM", "MiniMaxM2ForCausalLM", "SmolLM3ForCausalLM", "OlmoForCausalLM"):
        assert resolve_model(write(architectures=[name]))[1]["architectures"] == [name]
    assert "architectures" not in resolve_model(write(architectures=...))[1]


@pytest.mark.parametrize(
    ("name", "meant"),
    [("MiniMaxM2ForCausalML", "MiniMaxM2ForCausalLM"), ("Qwen3MoEForCausalLM", "Qwen3MoeForCausalLM")],
)
def test_a_suggestion_is_a_name_like_it(write: Writer, name: str, meant: str) -> None:
    with pytest.raises(CaptureError, match=f"did you mean {meant}"):
        resolve_model(write(architectures=[name]))


def test_every_integer_is_a_symbol_and_two_values_are_never_one() -> None:
    config = {
        "hidden_size": 64,
        "num_experts": 8,
        "num_local_experts": 8,
        "n_group": 2,
        "n_groups": 4,
        "ffn_hidden_size": [96, 128, 96],
        "attn_config": {"kv_n_heads": 8},
        "bos_token_id": 3,
        "tie": True,
        "head_dim": 0,
        "intermediate_size": None,
    }
    found = {(*field.place,): field.symbol for field in fields_of(config)}
    assert found == {
        ("hidden_size",): "H",
        ("num_experts",): "E",
        ("num_local_experts",): "E",
        ("n_group",): "G",
        ("n_groups",): "n_groups",
        ("ffn_hidden_size", 0): "ffn_hidden_size",
        ("ffn_hidden_size", 1): "ffn_hidden_size_2",
        ("ffn_hidden_size", 2): "ffn_hidden_size",
        ("attn_config", "kv_n_heads"): "kv_n_heads",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{\n  "hidden_size": 1,\n}', "line 3, column 1: not valid JSON"),
        ("", "line 1, column 1: not valid JSON"),
        ("[1]", "expected a JSON object, found list"),
        ("[" * 100_000, "cannot be read as JSON text"),
        (b"\xff\xfe{}", "cannot be read as JSON text"),
    ],
)
def test_a_file_that_is_no_configuration(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CaptureError) as caught:
        resolve_model(tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("llama-3.1-8", "did you mean llama-3.1-8b"),
        ("nothing-like-it", "neither a bundled model nor a file; bundled: "),
        ("no/such/folder", "no such file or folder"),
        ("missing.json", "no such file or folder"),
        ("x" * 5000, "not a path"),
        ("a\0b", "neither a bundled model nor a file"),
    ],
)
def test_a_model_that_is_not_there(model: str, message: str) -> None:
    with pytest.raises(CaptureError) as caught:
        resolve_model(model)
    assert message in str(caught.value)


def test_a_folder_without_a_configuration(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match=r"no config\.json in this folder"):
        resolve_model(tmp_path)


@pytest.mark.parametrize(
    ("tp", "message"),
    [
        (0, "tensor parallel size 0 is not a positive integer"),
        (-4, "tensor parallel size -4 is not a positive integer"),
        (3, "tensor parallel size 3 does not divide num_attention_heads 32"),
        (64, "tensor parallel size 64 does not divide num_attention_heads 32"),
    ],
)
def test_ranks_that_do_not_fit(tp: int, message: str) -> None:
    _, config = resolve_model("llama-3.1-8b")
    with pytest.raises(CaptureError) as caught:
        Parallel(tp).check(config, "llama-3.1-8b")
    assert message in str(caught.value)


def test_kv_heads_may_be_fewer_than_ranks_but_must_fit(write: Writer) -> None:
    _, config = resolve_model("llama-3.1-8b")
    Parallel(16).check(config, "model")
    _, config = resolve_model(write(num_attention_heads=36, num_key_value_heads=6, head_dim=128))
    with pytest.raises(CaptureError, match="neither divides num_key_value_heads 6 nor is a multiple of it"):
        Parallel(4).check(config, "model")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"platform": "tpu"}, "unknown platform 'tpu'; known: cpu, h100, h200, a100"),
        ({"backend": "XFORMERS"}, "unknown attention backend 'XFORMERS'; known: AMX_MLA, CPU_ATTN, "),
        ({"backend": "FLASH_ATTN"}, "attention backend FLASH_ATTN is not on platform cpu; there: CPU_ATTN"),
        ({"platform": "h100", "backend": "cpu_attn"}, "attention backend CPU_ATTN is not on platform h100; there: "),
        ({"tp": 5}, "tensor parallel size 5 does not divide"),
    ],
)
def test_bad_arguments_of_capture(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(DoolyError) as caught:
        capture("llama-3.1-8b", **arguments)
    assert message in str(caught.value)


def test_bad_input_is_refused_without_importing_torch() -> None:
    script = (
        "import sys\n"
        "from dooly.capture import capture\n"
        "try:\n    capture('no-such-model')\n"
        "except ValueError as error:\n    print(error)\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'vllm', 'transformers')))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "no-such-model" in done.stdout


def test_an_absent_engine_names_the_extra_that_brings_it() -> None:
    script = (
        "import sys\n"
        "sys.modules['vllm'] = None\n"
        "from dooly.capture import capture\n"
        "try:\n    capture('tiny-llama')\n"
        "except ValueError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "vLLM cannot be imported" in done.stdout
    assert "pip install 'dooly[cpu]'" in done.stdout


def test_what_sets_a_bundled_model_apart_from_its_checkpoint(tmp_path: Path) -> None:
    said = note_of("gpt-oss-20b")
    assert said is not None
    assert said.startswith("all weights in bf16; the published checkpoint keeps those of the experts in MXFP4")
    assert note_of("llama-3.1-8b") is None
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "note.txt").write_text("mine")
    assert note_of(tmp_path) is None


@pytest.mark.parametrize("missing", ["num_hidden_layers", "vocab_size"])
def test_a_size_that_ranks_share_must_be_there(missing):
    """Some models spell their sizes in other fields."""
    config = {"num_hidden_layers": 2, "num_experts": 4, "intermediate_size": 64, "vocab_size": 128}
    Parallel(2).check(config, "m")
    Parallel(2).check({**config, "intermediate_size": None}, "m")  # the engine knows how wide its experts are
    with pytest.raises(CaptureError, match=f"m: {missing} is None, expected a positive integer to spread over ranks"):
        Parallel(2).check({name: size for name, size in config.items() if name != missing}, "m")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("llama-3.1-8b", "llama-3.1-8b"),
        ("meta-llama/Llama-3.1-8B", "llama-3.1-8b"),
        ("meta-llama/Meta-Llama-3.1-70B-Instruct", "llama-3.1-70b"),
        ("Qwen/Qwen3_8B", "qwen3-8b"),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", "mixtral-8x7b"),
        ("ai21labs/Jamba-v0.1", "jamba-v0.1"),
        ("deepseek-ai/DeepSeek-V2-Lite-Chat", "deepseek-v2-lite"),
        ("google/gemma-2-9b-it", "gemma-2-9b"),
    ],
)
def test_a_bundled_model_is_known_however_its_name_is_written(typed, meant):
    assert resolve_model(typed) == resolve_model(meant)
    assert resolve_model(typed)[0] == meant


@pytest.mark.parametrize("typed", ["llama-3-8b", "qwen2.5-7b-instruct-1m", "llama-3.1-8b-instruct-fp8", "Llama-3.1"])
def test_a_name_that_means_another_model_is_not_taken_for_a_bundled_one(typed):
    with pytest.raises(CaptureError, match="neither a bundled model nor a file, did you mean"):
        resolve_model(typed)


def test_a_number_of_thousands_of_digits_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(f'{{"hidden_size": {"1" * 5000}}}', encoding="utf-8")
    with pytest.raises(CaptureError, match="cannot be read as JSON text: Exceeds the limit"):
        resolve_model(tmp_path)
