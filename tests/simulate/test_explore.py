"""Sweeps: the frontier, costs by hand, latency targets, and the command line on step times in files."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dooly.cli import main
from dooly.engine.settings import EngineSettings
from dooly.errors import SimulationError
from dooly.predict import SavedModel
from dooly.simulate import Candidate, Outcome, Targets, Trace, TraceRequest, evaluate, frontier, frontier_chart
from tests.adapters.conftest import dense, saved


def outcome(tokens: float, ttft_ms: float, cost: float | None = None, meets: bool = True) -> Outcome:
    return Outcome("d", 1, "-", 8, 64, 10, 1.0, ttft_ms, 5.0, 1.0, tokens, tokens, cost, 0, meets)


def test_only_what_nothing_beats_is_on_the_frontier() -> None:
    fast, busy, worse, missed = outcome(10, 1), outcome(20, 9), outcome(9, 2), outcome(99, 99, meets=False)
    assert frontier([worse, fast, missed, busy]) == [busy, fast]
    assert frontier([missed]) == []


def test_cost_counts_where_all_have_one() -> None:
    cheap, dear = outcome(10, 5, cost=1.0), outcome(11, 4, cost=2.0)
    assert frontier([cheap, dear]) == [dear, cheap]
    assert frontier([cheap, dear, outcome(1, 50)]) == [dear]


@given(st.lists(st.builds(outcome, st.floats(1, 9), st.floats(1, 9), st.floats(1, 9), st.booleans()), max_size=12))
def test_every_outcome_that_meets_is_beaten_or_kept(outcomes: list[Outcome]) -> None:
    best = frontier(outcomes)
    for one in outcomes:
        if one.meets and one not in best:
            assert any(b.ttft_ms <= one.ttft_ms and b.output_tokens_per_s >= one.output_tokens_per_s for b in best)


@pytest.fixture(scope="module")
def model() -> SavedModel:
    return saved("small", dense("small"), TP=2)


def requests() -> Trace:
    rng = random.Random(0)
    return Trace("t", tuple(TraceRequest(0.0, rng.randint(10, 300), rng.randint(2, 60)) for _ in range(60)))


def test_outcomes_against_targets_and_prices(model: SavedModel) -> None:
    settings = EngineSettings(16, 512, 1024, 16)
    candidates = [Candidate(model, settings, rate) for rate in (1.0, 1000.0)]
    seen: list[tuple[int, int]] = []
    idle, busy = evaluate(
        candidates,
        requests(),
        Trace.fixed,
        Targets(ttft_ms=100),
        {"NVIDIA H200": 3.0},
        lambda done, total: seen.append((done, total)),
    )
    assert seen == [(1, 2), (2, 2)]
    assert idle.ttft_ms < busy.ttft_ms
    assert idle.tokens_per_s_per_device < busy.tokens_per_s_per_device
    assert (idle.meets, busy.meets) == (idle.ttft_ms <= 100, busy.ttft_ms <= 100)
    assert busy.cost == pytest.approx(3.0 * 2 / (busy.output_tokens_per_s * 3600) * 1e6)
    assert busy.tokens_per_s_per_device == busy.output_tokens_per_s / 2
    picture = frontier_chart("a <b>", [idle, busy], frontier([idle, busy]))
    assert picture.count("<circle") == 2
    assert "a &lt;b&gt;" in picture


def test_impossible_targets() -> None:
    with pytest.raises(SimulationError, match="target ttft_ms is 0"):
        Targets(ttft_ms=0)
    with pytest.raises(SimulationError, match="percentile 100"):
        Targets(percentile=100)


@pytest.fixture(scope="module")
def file(model: SavedModel, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("steps") / "small.json"
    model.save(path)
    return str(path)


def test_the_command_prints_a_frontier(file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prices, plot = tmp_path / "prices.json", tmp_path / "frontier.svg"
    prices.write_text('{"NVIDIA H200": 2.5}')
    arguments = ["explore", file, "--requests", "30", "--rates", "2,20", "--max-num-seqs", "4,16"]
    arguments += ["--num-gpu-blocks-override", "600", "--prices", str(prices)]
    assert main([*arguments, "--json", "--plot", str(plot)]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert len(answer["outcomes"]) == 4
    assert any(row["frontier"] for row in answer["outcomes"])
    assert all(row["cost"] > 0 for row in answer["outcomes"])
    assert plot.read_text().startswith("<svg")
    assert main([*arguments, "--ttft", "5000"]) == 0
    assert "cost per 1M tokens" in capsys.readouterr().out
    assert main([*arguments, "--json", "--price", "h200=5", "--price", "B200=9"]) == 0
    printed = capsys.readouterr()
    dearer = json.loads(printed.out)
    assert [row["cost"] for row in dearer["outcomes"]] == [2 * row["cost"] for row in answer["outcomes"]]
    assert printed.err.count("none of the step times is of such a device") == 1
    assert main([*arguments, "--tpot", "0.001"]) == 0
    line = capsys.readouterr().out
    assert line.startswith("none of 4 configurations meets the targets; least TTFT p90 ")
    assert " ms (" in line.partition(", least TPOT p90 ")[2]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--rates", "1,fast"], "--rates: found 'fast'; expected positive numbers"),
        (["--rates", "-1"], "--rates: found '-1'"),
        (["--max-num-seqs", "2.5"], "--max-num-seqs: 2.5 are not whole numbers"),
        (["--price", "H100"], "expected DEVICE=PRICE"),
        (["--price", "H100=cheap"], "price 'cheap' of 'H100'"),
        (["--prices", "none.json"], "none.json: cannot be read"),
        (["--ttft", "-5"], "target ttft_ms is -5"),
        (["--max-num-seqs", "99", "--max-num-batched-tokens", "9"], "raise one or lower the other"),
        (["--trace", "none.csv"], "none.csv: cannot be read"),
        ([], "weights are not known; give the number of KV blocks"),
    ],
)
def test_refusals_are_one_line(file: str, extra: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explore", file, *(["--num-gpu-blocks-override", "600"] if extra else []), *extra]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert message in captured.err
