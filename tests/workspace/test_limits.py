"""Requests that no engine on that device would serve: one line, and what would fit."""

import re
from types import SimpleNamespace

import numpy as np
import pytest

from dooly.batch import MOST_CACHED
from dooly.cli import main
from dooly.workspace.limits import context_of


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["llama-3.1-405b", "--batch", "1:512"], r"812 GB of weights on each of 1 x NVIDIA H200"),
        (["llama-3.1-405b", "--batch", "1:512"], r"--tp 8 would fit"),
        (["llama-3.1-70b", "--batch", "1:512"], r"141 GB of weights .* --tp 2 would fit"),
        (["llama-3.1-8b", "--batch", "1:200000x64"], r"of 200,001 tokens, the context of llama-3.1-8b is 131,072"),
        (["llama-3.1-8b", "--batch", "1:512x2000"], r"2,000 requests in one step, the engine's limit is 1,024"),
        (["llama-3.1-8b", "--batch", "9000:0"], r"9,000 new tokens in one step, the engine's limit is 8,192"),
        (["llama-3.1-8b", "--batch", "1:100000x64"], r"takes 838\.9 GB, .* about 9 of 64 fit"),
    ],
)
def test_what_would_not_run_is_not_predicted(tmp_path, capsys, arguments, said):
    assert main(["predict", *arguments, "--platform", "h200", "--db", str(tmp_path / "none.sqlite")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.search(said, err), err


def test_no_room_for_a_kv_cache_ends_a_simulation_before_it_begins(tmp_path, capsys):
    arguments = ["simulate", "llama-3.1-70b", "--platform", "h200", "--fast", "--db", str(tmp_path / "none.sqlite")]
    assert main(arguments) == 2
    assert "--tp 2 would fit" in capsys.readouterr().err


def test_limits_that_are_raised_are_those_of_the_engine(tmp_path, capsys):
    arguments = ["predict", "llama-3.1-8b", "--platform", "h200", "--db", str(tmp_path / "none.sqlite"), "--json"]
    assert main([*arguments, "--batch", "1:64x2000", "--max-num-seqs", "2048"]) == 0
    assert '"device_us"' in capsys.readouterr().out


def test_a_gpu_is_named_in_capitals_or_by_another_option(tmp_path, capsys):
    for option, name in (("--platform", "H200"), ("--gpu", "h200")):
        arguments = ["predict", "llama-3.1-405b", "--batch", "1:512", option, name]
        assert main([*arguments, "--db", str(tmp_path / "none.sqlite")]) == 2
        assert "--tp 8 would fit" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", [["predict", "--batch", "1:1"], ["coverage", "--gpu", "h200"], ["plan"], ["profile"]]
)
def test_a_mistyped_model_is_told_before_anything_is_read_or_made(tmp_path, capsys, monkeypatch, command):
    monkeypatch.setattr("dooly.workspace.models.look_into", None)
    assert main([*command, "lama-3.1-8b", "--db", str(tmp_path / "none.sqlite")]) == 2
    err = capsys.readouterr().err
    assert "did you mean llama-3.1-8b" in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def step_file(tmp_path_factory):
    """Step times of a model with a context of 4,096 tokens."""
    folder = tmp_path_factory.mktemp("steps")
    arguments = ["export", "steps", "llama-2-7b", "--gpu", "h200", "--db", str(folder / "none.sqlite")]
    assert main([*arguments, "-o", str(folder / "steps.json")]) == 0
    return folder / "steps.json"


def test_every_command_that_serves_keeps_to_the_context(step_file, capsys):
    simulate = ["simulate", "llama-2-7b", "--gpu", "h200", "--fast", "--requests", "2"]
    for arguments in (simulate, ["explore", str(step_file), "--rates", "2", "--requests", "2"]):
        assert main([*arguments, "--max-model-len", "4097"]) == 2
        assert "--max-model-len is 4,097, the context of llama-2-7b is 4,096" in capsys.readouterr().err
        assert main(arguments) == 0


def test_a_stretched_context_is_the_longer_one():
    def model(**sizes):
        return SimpleNamespace(config=sizes)

    assert context_of(model(Np=4096)) == 4096
    assert context_of(model(Np=131072, No=32768, Fp=4)) == 131072
    assert context_of(model(Np=32768, No=32768, Fp=4)) == 131072
    assert context_of(model()) == MOST_CACHED


def test_an_export_keeps_to_the_context_and_says_so(tmp_path, capsys):
    arguments = ["export", "dynamo", "llama-2-7b", "--platform", "h200", "--db", str(tmp_path / "none.sqlite")]
    assert main([*arguments, "-o", str(tmp_path / "a.npz"), "--max-context", "99999"]) == 0
    assert "note: contexts up to 4,096 tokens, those of llama-2-7b, not 99,999" in capsys.readouterr().err
    assert np.load(tmp_path / "a.npz")["prefill_isl"].max() <= 4096
