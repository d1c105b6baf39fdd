"""dooly from Python: the same answers as the commands, as frozen values with tables."""

import dataclasses
import json
import subprocess
import sys

import pytest

import dooly
from dooly.cli import main


@pytest.fixture(scope="module")
def model() -> dooly.LoadedModel:
    return dooly.load("llama-3.1-8b", gpu="H200", db="no-such.sqlite")


def test_a_step_is_that_of_the_command(model, capsys):
    step = model.predict("128:0,1:512x7")
    assert main(["predict", "llama-3.1-8b", "--gpu", "h200", "--batch", "128:0,1:512x7", "--json", "--db", "none"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert step.total_us == printed["cost"]["total_us"]
    assert step.frame()["total_us"].to_list() == [row["total_us"] for row in printed["rows"]]
    assert step.frame()["total_us"].sum() == pytest.approx(step.total_us)


def test_many_steps_are_those_one_by_one(model):
    texts = ["1:512x64", "1024:0", "128:0,1:512x7"]
    found = model.predict_many(texts).frame()
    assert found["total_us"].to_list() == pytest.approx([model.predict(text).total_us for text in texts])
    assert found["kind"].to_list() == ["decode", "prefill", "mixed"]


def test_a_load_is_that_of_the_command(model, capsys):
    load = {"num_prompts": 32, "max_concurrency": 8, "random_input_len": 256, "random_output_len": 16}
    found = model.bench(**load)
    options = [f"--{name.replace('_', '-')}={value}" for name, value in load.items()]
    assert main(["bench", "llama-3.1-8b", "--gpu", "h200", "--json", "--db", "none", *options]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert found.frame()["ttft_ms"].mean() == pytest.approx(printed["mean_ttft_ms"])
    assert found.json().keys() == printed.keys()
    assert "Successful requests:                     32" in str(found)


def test_a_trace_is_served_and_rates_are_compared(model):
    assert model.simulate(requests=12).frame().height == 12
    found = dooly.explore([model], rates=[2, 4], requests=12)
    assert found.frame()["requests_per_s"].to_list() == [2, 4]
    assert set(found.best) <= set(found.outcomes)


def test_what_is_covered_is_that_of_the_command(capsys):
    found = dooly.coverage("llama-3.1-8b", gpu="H200", db="none").frame()
    assert main(["coverage", "llama-3.1-8b", "--gpu", "h200", "--json", "--db", "none"]) == 0
    assert found.to_dicts() == json.loads(capsys.readouterr().out)["operations"]


def test_answers_cannot_be_changed(model):
    step = model.predict("1:8")
    with pytest.raises(dataclasses.FrozenInstanceError):
        step.batch = None


def test_mistakes_are_one_line(model):
    for wrong, message in (
        (lambda: dooly.load("llama-3.1-9b", gpu="h200"), "llama-3.1-9b"),
        (lambda: dooly.load("llama-3.1-8b", gpu="b300"), "b300"),
        (lambda: model.predict("1:512x2000"), "the engine's limit is 1,024"),
        (lambda: model.predict("many"), "expected NEW:CACHED"),
    ):
        with pytest.raises(dooly.DoolyError, match=message) as error:
            wrong()
        assert "\n" not in str(error.value)


def test_importing_it_imports_nothing_else():
    code = "import sys, dooly; print([m for m in ('numpy', 'polars', 'sympy', 'torch', 'vllm') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
    assert all(hasattr(dooly, name) for name in dooly.__all__)
