"""Bundled models without the engine: their graphs ship, equal to what a capture gives; others are captured once."""

import json
import subprocess
import sys

import pytest

from dooly.capture import Options, Parallel, check, list_models
from dooly.errors import CaptureError
from dooly.workspace import captures
from dooly.workspace.captures import CAPTURED_ON, SIZES, graphs_of, shipped_graph

WITHOUT_ENGINE = """
import json, sys
from importlib.machinery import PathFinder

absent, find = {"torch", "vllm", "transformers"}, PathFinder.find_spec
PathFinder.find_spec = lambda name, *more: None if name.partition(".")[0] in absent else find(name, *more)
from dooly.cli import main

for arguments in json.loads(sys.argv[1]):
    status = main(arguments)
    assert status == 0, (arguments, status)
assert not absent & set(sys.modules)
"""

FRESH = """
import sys
from dooly.capture import Options, Parallel, capture_checked, check
from dooly.workspace.captures import shipped_graph

for each in sys.argv[2:]:
    model, tp = each.split(":")
    options = Options(Parallel(int(tp)), sys.argv[1])
    name, config = check(model, options)
    shipped = shipped_graph(name, config, options)  # before the engine fills in what the configuration leaves out
    if (shipped,) != capture_checked(name, config, options):
        print("differs:", model, tp)
"""


FIXED = {("gemma-3-4b", 8), ("tiny-llama", 8)}
"""One head a rank, which fixes a size while the code runs: no capture takes these."""


def run_script(script, *arguments):
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)


def cases(*sizes):
    """Bundled models with the numbers of ranks that each can be split into and captured for."""
    found: list[tuple[str, int]] = []
    for model in list_models():
        for tp in sizes:
            try:
                check(model, Options(Parallel(tp), CAPTURED_ON))
            except CaptureError:
                continue
            found.append((model, tp))
    return [each for each in found if each not in FIXED]


@pytest.mark.parametrize("platform", ["h100", "h200"])
def test_every_bundled_model_ships_for_each_number_of_ranks(platform):
    for model, tp in cases(*SIZES):
        options = Options(Parallel(tp), platform)
        graph = shipped_graph(*check(model, options), options)
        assert graph is not None, (model, tp)
        assert graph.name == model
        assert dict(graph.settings)["platform"] == platform
        assert graph.config_values.get("TP", 1) == tp


def test_what_was_asked_for_otherwise_does_not_ship():
    for options in (
        Options(),
        Options(platform="h200", eager=True),
        Options(platform="h200", backend="FLASHINFER"),
        Options(Parallel(pp=2), "h200"),
    ):
        assert shipped_graph(*check("llama-3.1-8b", options), options) is None


def test_a_graph_of_another_release_than_the_installed_one_is_not_used(monkeypatch):
    options = Options(platform="h200")
    monkeypatch.setattr(captures, "installed", lambda *_: "0.26.0")
    assert shipped_graph(*check("llama-3.1-8b", options), options) is None
    monkeypatch.setattr(captures, "installed", lambda *_: "")
    assert shipped_graph(*check("llama-3.1-8b", options), options) is not None


def test_a_configuration_is_captured_once_for_the_same_options_and_code(tmp_path, monkeypatch):
    options = Options(platform="h200", eager=True)
    shipped = shipped_graph(*check("llama-3.1-8b", options), Options(platform="h200"))
    calls: list[str] = []

    def capture(name, config, options):
        calls.append(name)
        return (shipped,)

    monkeypatch.setattr(captures, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(captures, "capture_checked", capture)
    assert graphs_of("llama-3.1-8b", options) == graphs_of("llama-3.1-8b", options) == (shipped,)
    assert calls == ["llama-3.1-8b"]
    graphs_of("llama-3.1-8b", Options(platform="h100", eager=True))
    monkeypatch.setattr(captures, "source_digest", lambda *_parts: "other code")
    graphs_of("llama-3.1-8b", options)
    assert len(calls) == 3
    for path in (tmp_path / "cache").glob("*.ir"):
        path.write_text("damaged")
    assert graphs_of("llama-3.1-8b", options) == (shipped,)
    assert len(calls) == 4


def test_a_gpu_is_predicted_and_simulated_without_torch_and_without_the_engine(tmp_path):
    db, steps = str(tmp_path / "none.sqlite"), str(tmp_path / "steps.json")
    usual = ["--platform", "h200", "--db", db]
    commands = [
        ["predict", "llama-3.1-8b", *usual, "--batch", "1:512x64", "--json"],
        ["export", "steps", "llama-3.1-8b", *usual, "-o", steps],
        ["explore", steps, "--requests", "20", "--rates", "1", "--ttft", "5000"],
        ["simulate", "llama-3.1-8b", *usual, "--requests", "20"],
    ]
    done = run_script(WITHOUT_ENGINE, json.dumps(commands))
    assert done.returncode == 0, done.stderr
    assert '"device_us"' in done.stdout
    assert "scheduler: compact" in done.stderr


@pytest.mark.engine
@pytest.mark.parametrize(("platform", "some"), [("h200", ["qwen3-8b:1"]), ("h100", ["llama-3.1-8b:4"])])
def test_what_ships_is_what_a_capture_gives(platform, some):
    done = run_script(FRESH, platform, *some)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.engine
@pytest.mark.exhaustive
@pytest.mark.parametrize("platform", ["h100", "h200"])
def test_all_that_ships_is_what_a_capture_gives(platform):
    known = [f"{model}:{tp}" for model, tp in cases(*SIZES)]
    assert len(known) > 80
    done = run_script(FRESH, platform, *known)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
