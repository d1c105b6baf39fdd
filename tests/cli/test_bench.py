"""`dooly bench` on a small model: what it prints and writes, and the commands of its page."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from dooly.cli import main
from dooly.engine.options import EngineOptions
from dooly.predict import SavedModel
from dooly.workspace.serving import Served
from tests.adapters.conftest import dense, saved

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "how-to" / "benchmark-without-a-gpu.md"


@pytest.fixture(scope="module")
def small() -> SavedModel:
    return saved("small", dense("small"), TP=2)


@pytest.fixture(autouse=True)
def asked(small: SavedModel, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Every command serves a small model of known step times; what it asked for is kept."""
    found: list[tuple[Any, ...]] = []

    def of(name: str, options: EngineOptions, *where: Any) -> Served:
        found.append((name, options, *where))
        settings = options.settings(True, "NVIDIA H200", 141 << 30, ROOT / "dooly" / "models" / "llama-3.1-8b")
        return Served(Path("small"), small, settings)

    monkeypatch.setattr(Served, "of", of)
    return found


SMALL = ["bench", "small", "--num-gpu-blocks-override", "9000", "--num-prompts", "40", "--random-input-len", "100"]


def test_the_result_is_printed_and_saved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "result.json"
    load = ["--max-concurrency", "4", "--goodput", "ttft:1000", "--metric-percentiles", "90,99.5"]
    assert main([*SMALL, *load, "--save-result", "--result-filename", str(path)]) == 0
    printed = capsys.readouterr()
    assert "engine: 1,024 requests and 8,192 tokens a step, 131,072 tokens a request, 9,000 KV" in printed.err
    assert "prefix caching, asynchronous scheduling" in printed.err
    assert "Maximum request concurrency:             4 " in printed.out
    assert "P99.5 ITL (ms):" in printed.out
    content = json.loads(path.read_text())
    assert (content["completed"], content["max_concurrency"], content["request_rate"]) == (40, 4, "inf")
    assert content["request_goodput"] == pytest.approx(content["request_throughput"])
    per_gpu = float(printed.out.split("Output tokens/s per GPU:")[1].split()[0])
    assert per_gpu == pytest.approx(content["output_throughput"] / 2, rel=1e-3)
    assert "ttfts" not in content
    assert main([*SMALL, *load, "--json", "--save-detailed"]) == 0
    detailed = json.loads(capsys.readouterr().out)
    assert len(detailed["ttfts"]) == 40
    assert {name: detailed[name] for name in content if name != "date"}.items() <= content.items()


def test_more_under_way_is_more_throughput_and_latency(capsys: pytest.CaptureFixture[str]) -> None:
    found: list[dict[str, Any]] = []
    for concurrency in ("1", "8", "32"):
        assert main([*SMALL, "--max-concurrency", concurrency, "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    for name in ("output_throughput", "median_ttft_ms", "median_tpot_ms"):
        one, eight, many = (each[name] for each in found)
        assert one < eight < many, name


def test_what_all_prompts_share_is_computed_once(capsys: pytest.CaptureFixture[str]) -> None:
    found: list[float] = []
    for caching in ("--enable-prefix-caching", "--no-enable-prefix-caching"):
        assert main([*SMALL, "--random-prefix-len", "2000", "--max-concurrency", "1", caching, "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out)["median_ttft_ms"])
    assert found[0] < found[1]


@pytest.mark.parametrize(
    "command", [line.strip() for line in PAGE.read_text().splitlines() if line.startswith("    dooly bench ")]
)
def test_the_commands_of_the_page(
    command: str, asked: list[tuple[Any, ...]], tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = shlex.split(command)[1:]
    if "--dataset-path" in arguments:
        assert main(arguments) == 2
        assert "cannot be read: No such file" in capsys.readouterr().err
        return
    assert main([*arguments, "--num-gpu-blocks-override", "90000", "--num-prompts", "20"]) == 0
    (name, options, _, _, _, platform), out = asked[-1], capsys.readouterr().out
    assert (name, platform) == ("llama-3.1-8b", arguments[arguments.index("--gpu") + 1].lower())
    assert options.max_num_seqs is None
    assert "Serving Benchmark Result" in out


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--max-concurrency", "0"], "concurrency is 0; expected at least 1"),
        (["--num-prompts", "0"], "0 prompts; expected at least 1"),
        (["--request-rate", "-1"], "request rate of -1"),
        (["--ramp-up-strategy", "linear"], "needs --ramp-up-start-rps and --ramp-up-end-rps"),
        (["--random-range-ratio", "wide"], "--random-range-ratio: found 'wide'"),
        (["--random-range-ratio", '{"input": 0.5}'], "--random-range-ratio: found"),
        (["--metric-percentiles", "99,most"], "--metric-percentiles: found 'most'"),
        (["--percentile-metrics", "ttft,speed"], "no metric 'speed'"),
        (["--goodput", "ttft"], "--goodput ttft: found ''; expected a number"),
        (["--dataset-name", "sharegpt"], "give --dataset-path FILE"),
        (["--random-input-len", "200000"], "max_model_len is 131072"),
    ],
)
def test_refusals_are_one_line(extra: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, *extra]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert "Traceback" not in captured.err
