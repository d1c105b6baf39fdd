"""Engine settings, and what is refused before an engine is started."""

import json
from pathlib import Path

import pytest

from dooly.engine.settings import EngineSettings, model_folder, stated_dtype
from dooly.errors import SimulationError


def test_default_blocks_hold_every_request() -> None:
    assert EngineSettings(max_num_seqs=4, max_model_len=100, block_size=32).blocks == 4 * 4 + 1
    assert EngineSettings(num_blocks=70).blocks == 70


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_num_seqs": 0}, "max_num_seqs is 0; expected at least 1"),
        ({"block_size": -1}, "block_size is -1"),
        ({"num_blocks": 0}, "num_blocks is 0"),
        ({"max_num_seqs": 64, "max_num_batched_tokens": 32}, "less than max_num_seqs 64"),
        ({"chunked_prefill": False}, "512, less than max_model_len 2048: without chunked prefill"),
        ({"num_blocks": 64}, "64 KV cache blocks of 32 tokens .* cannot hold one request of max_model_len 2048"),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, int], message: str) -> None:
    with pytest.raises(SimulationError, match=message):
        EngineSettings(**settings)


def test_model_folder(tmp_path: Path) -> None:
    with pytest.raises(SimulationError, match=r"no config\.json there"):
        model_folder(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert model_folder(tmp_path) == model_folder(tmp_path / "config.json") == tmp_path


@pytest.mark.parametrize(
    ("content", "dtype"),
    [
        ({"torch_dtype": "float32"}, "float32"),
        ({"dtype": "bfloat16"}, "bfloat16"),
        ({}, "auto"),
        ({"dtype": 3}, "auto"),
    ],
)
def test_stated_dtype(tmp_path: Path, content: object, dtype: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert stated_dtype(tmp_path) == dtype


@pytest.mark.parametrize("text", ["", "[1]", "\udcff"])
def test_config_that_is_no_object(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(SimulationError, match="not a JSON object"):
        stated_dtype(tmp_path)
