"""Recordings of a server: stored and read, loads checked, and one real API server with its client and its steps."""

import gzip
import json
import math
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import dooly
from dooly.cli import main
from dooly.engine.client import ServedRequest
from dooly.engine.loads import Load
from dooly.engine.step_log import LoggedStep
from dooly.errors import SimulationError
from dooly.evaluate import LADDER, Served, load_served, read_ladder, save_served
from dooly.evaluate.served import ServedLoad

REQUESTS = (
    ServedRequest(24, 3, 0, 0.0, 0.001, 0.002, 0.01, 0.011, 0.02, (4000, 5000)),
    ServedRequest(40, 1, 16, 0.5, math.nan, math.nan, math.nan, 0.75, 0.75),
)
STEPS = (
    LoggedStep(0.002, 0.0021, 0.003, 0.004, 0.009, 0.01, 5.5, math.nan, "NONE", 24, (), ((24, 0),), (), ()),
    LoggedStep(0.0105, 0.0106, 0.011, 0.0115, 0.012, 0.0125, 4.5, 0.5, "FULL", 2, (), ((1, 24), (1, 40)), (), (1,)),
)
LOAD = ServedLoad(LADDER[0], 101, 0, (("completed", 2.0),), (("prompt_tokens", 64.0),), REQUESTS, STEPS)
SERVED = Served("m", '{\n  "vocab_size": 9\n}', ("--max-model-len", "64"), (("cores", "2"),), (LOAD,))


def test_what_is_saved_is_read(tmp_path: Path):
    save_served(SERVED, tmp_path / "a.json.gz")
    read = load_served(tmp_path / "a.json.gz")
    assert repr(replace(read, loads=())) == repr(replace(SERVED, loads=()))
    (load,) = read.loads
    assert (load.load, load.seed, load.result, load.counts) == (LOAD.load, LOAD.seed, LOAD.result, LOAD.counts)
    assert repr(load.requests) == repr(LOAD.requests)  # repr: a nan is not equal to itself
    assert repr(load.steps) == repr(LOAD.steps)
    save_served(read, tmp_path / "b.json.gz")
    assert (tmp_path / "a.json.gz").read_bytes() == (tmp_path / "b.json.gz").read_bytes()


@pytest.mark.parametrize("name", ["h200-llama-3.1-8b", "h200-llama-3.1-8b-fp8"])
def test_what_ships_is_whole(name: str):
    """Each prompt token is computed once or was in the cache, and each output token but the last of each request."""
    path = Path(str(dooly.__path__[0])) / "data" / "served" / f"{name}.json.gz"
    assert path.stat().st_size < 300_000
    for load in load_served(path).loads:
        counts, cached = dict(load.counts), sum(request.cached_tokens for request in load.requests)
        prompts = sum(request.prompt_tokens for request in load.requests)
        outputs = sum(request.output_tokens for request in load.requests)
        assert counts["prompt_tokens"] == prompts
        assert counts.get("prefix_cache_hits", 0) == cached
        assert counts["generation_tokens"] == outputs
        computed = sum(new for step in load.steps for new, _ in step.requests)
        assert computed == prompts - cached + outputs - len(load.requests)
        assert all(step.device_us > 0.0 and step.mode for step in load.steps)


def test_gaps_can_be_left_out():
    (load,) = SERVED.without_gaps().loads
    assert [request.gaps_us for request in load.requests] == [(), ()]
    assert load.requests[0].tpot_s == LOAD.requests[0].tpot_s == pytest.approx(0.0045)
    assert load.requests[0].ttft_s == pytest.approx(0.011)


def test_another_file_is_refused(tmp_path: Path):
    (path := tmp_path / "a.json.gz").write_bytes(gzip.compress(b'{"format": "something else"}'))
    with pytest.raises(SimulationError, match="something else"):
        load_served(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"name": "a"}]', "not a list of loads with name, input_tokens"),
        ('{"name": "a"}', "not a list of loads with name, input_tokens"),
        ('[{"name": "a b", "input_tokens": 1, "output_tokens": 1, "requests": 1}]', "load 'a b': expected a word"),
        ('[{"name": "a", "input_tokens": 0, "output_tokens": 1, "requests": 1}]', "numbers of 1 or more"),
        ('[{"name": "a", "input_tokens": 1, "output_tokens": 1, "requests": 1, "rate": 0}]', "a rate above 0"),
    ],
)
def test_a_ladder_is_checked(tmp_path: Path, content: str, message: str):
    (path := tmp_path / "ladder.json").write_text(content)
    with pytest.raises(SimulationError, match=message):
        read_ladder(path)


def test_options_of_the_client():
    closed, open_loop = LADDER[1].options(7, "c16-7-"), Load("p", 9, 2, 3, rate=2.5).options(8, "p-")
    assert (closed["max-concurrency"], closed["request-rate"]) == ("16", "inf")
    assert "max-concurrency" not in open_loop
    assert open_loop["request-rate"] == "2.5"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--serve", "--steps", "y"), "--steps is not of --serve; the server takes vLLM's own flags after --"),
        (("--serve", "--loads", "c2"), "--loads: no load 'c2'; there are c1, c16, c64"),
        (("--loads", "c1"), "--loads and --ladder are of --serve"),
        ((), "no trace to serve; name one after the model"),
    ],
)
def test_a_wrong_command_is_one_line(
    arguments: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    output = tmp_path / "x.json.gz"
    assert main(["record", "tiny-llama", *arguments, "-o", str(output)]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not output.exists()


@pytest.mark.engine
def test_a_real_server_is_recorded(models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    if not any(each.name == "dooly" for each in entry_points(group="vllm.general_plugins")):
        pytest.skip("dooly is installed here without its plug-in")
    (ladder := tmp_path / "ladder.json").write_text(
        json.dumps([{"name": "pair", "input_tokens": 40, "output_tokens": 6, "requests": 5, "concurrency": 2}])
    )
    output = tmp_path / "served.json.gz"
    arguments = ["--serve", "--ladder", str(ladder), "--repeats", "1", "-o", str(output)]
    flags = ["--max-model-len", "256", "--max-num-seqs", "4", "--enforce-eager", "--kv-cache-memory-bytes", "50000000"]
    assert main(["record", str(models["llama"]), *arguments, "--", *flags]) == 0, capsys.readouterr().err
    served = load_served(output)
    (load,) = served.loads
    counts, result = dict(load.counts), dict(load.result)
    assert {"cpu", "engine", "num_gpu_blocks", "date"} <= dict(served.facts).keys()
    assert counts["prompt_tokens"] == sum(request.prompt_tokens for request in load.requests) == 200
    assert counts["generation_tokens"] == result["total_output_tokens"] == 30
    assert sum(new for step in load.steps for new, _ in step.requests) == 200 + 25  # the last token is not computed
    assert max(len(step.requests) for step in load.steps) <= 2
    for request in load.requests:
        moments = (request.sent_s, request.arrived_s, request.admitted_s, request.sampled_s, request.first_token_s)
        assert list(moments) == sorted(moments)
        assert request.finish_s == pytest.approx(request.first_token_s + sum(request.gaps_us) / 1e6, abs=1e-4)
        assert (request.output_tokens, request.cached_tokens) == (6, 0)
        assert 1 <= len(request.gaps_us) <= 5  # a busy server sends several tokens in one piece


@pytest.mark.engine
def test_why_a_server_does_not_start_is_said(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    if not any(each.name == "dooly" for each in entry_points(group="vllm.general_plugins")):
        pytest.skip("dooly is installed here without its plug-in")
    output = tmp_path / "served.json.gz"
    assert main(["record", str(models["llama"]), "--serve", "-o", str(output), "--", "--max-model-lenth", "9"]) == 2
    said = capsys.readouterr().err
    assert "`vllm serve` does not start:" in said
    assert "--max-model-lenth" in said
    assert not output.exists()
