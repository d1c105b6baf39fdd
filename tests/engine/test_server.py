"""The tokenizer that a server gets for a model without one, and what is said when a server does not start."""

import json
from pathlib import Path

import pytest

from dooly.engine.server import write_tokenizer

VOCABULARY = 12_345


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": VOCABULARY}))
    return tmp_path


@pytest.mark.engine
def test_every_token_survives_text(folder: Path):
    """Words of different lengths do not: the end-of-sequence word t1 is found in t10, and many prompts become one."""
    from transformers import AutoTokenizer

    write_tokenizer(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = list(range(VOCABULARY))
    assert tokenizer.vocab_size == VOCABULARY
    assert tokenizer.encode(tokenizer.decode(tokens), add_special_tokens=False) == tokens


def test_a_tokenizer_that_is_there_is_kept(folder: Path):
    (folder / "tokenizer.json").write_text("{}")
    write_tokenizer(folder)
    assert (folder / "tokenizer.json").read_text() == "{}"
