"""Recorded runs of the real engine: complete, consistent, and comparable with a simulation of the same trace."""

from pathlib import Path

import pytest

from dooly.batch import StepCost
from dooly.engine.local import start_engine
from dooly.engine.settings import EngineSettings
from dooly.errors import SimulationError
from dooly.evaluate import compare, record_runs
from dooly.simulate import Run, Trace, load_run, save_run, shipped_trace, simulate

SETTINGS = EngineSettings(max_num_seqs=8, max_num_batched_tokens=128, max_model_len=128)


@pytest.fixture(scope="module")
def trace() -> Trace:
    return shipped_trace("azure-conv").first(16).clip(128).at_rate(40)


@pytest.fixture(scope="module")
def runs(models: dict[str, Path], trace: Trace) -> list[Run]:
    return record_runs(models["mixtral"], trace, SETTINGS, repeats=2)


@pytest.mark.engine
def test_every_request_and_step_is_recorded(runs: list[Run], trace: Trace) -> None:
    assert len(runs) == 2
    for run in runs:
        assert run.source == "measured"
        assert run.clipped == trace.clipped
        assert {"cpu", "threads", "torch", "engine", "date"} <= dict(run.facts).keys()
        for record, expected in zip(run.requests, trace.requests, strict=True):
            assert (record.prompt_tokens, record.output_tokens) == (expected.prompt_tokens, expected.output_tokens)
            assert record.arrival_s < record.first_token_s <= record.finish_s
        # Each prompt token is computed once, and so is each output token but the last of each request.
        expected_tokens = sum(r.prompt_tokens + r.output_tokens - 1 for r in trace.requests)
        assert sum(step.batch.tokens for step in run.steps) == expected_tokens
        for step in run.steps:
            detail = dict(step.detail)
            assert step.device_us == pytest.approx(detail["forward_us"] + detail["logits_us"] + detail["argmax_us"])
            assert step.host_before_us == pytest.approx(detail["schedule_us"] + detail["prepare_us"])
            assert step.total_us == pytest.approx(step.host_before_us + step.device_us + step.host_after_us)
            assert min(step.host_before_us, step.device_us, step.host_after_us) > 0
            assert step.host_after_us >= detail["results_us"] + detail["update_us"]
            assert step.launch_us == 0.0


@pytest.mark.engine
def test_steps_do_not_overlap(runs: list[Run]) -> None:
    for run in runs:
        ends = [step.start_s + step.total_us / 1e6 for step in run.steps]
        assert all(end <= step.start_s for end, step in zip(ends, run.steps[1:], strict=False))


@pytest.mark.engine
def test_recording_can_be_stored(runs: list[Run], tmp_path: Path) -> None:
    save_run(runs[0], tmp_path / "run.json")
    assert load_run(tmp_path / "run.json") == runs[0]


@pytest.mark.engine
def test_a_recording_compares_with_a_simulation(runs: list[Run], models: dict[str, Path], trace: Trace) -> None:
    simulated = simulate(models["mixtral"], trace, lambda batch: 5e-3, SETTINGS)
    predicted = [[StepCost(500, 4000, 500, 5000) for _ in run.steps] for run in runs]
    result = compare(runs, predicted, simulated)
    assert {(e.kind, e.part) for e in result.steps} >= {("decode", "total"), ("decode", "device")}
    assert sum(e.count for e in result.steps if e.part == "total") == sum(len(run.steps) for run in runs)
    assert [e.metric for e in result.requests] == ["ttft", "tpot", "e2e"]
    assert all(e.noise_percent is not None for e in result.requests)


@pytest.mark.engine
def test_a_prompt_that_leaves_no_room_for_a_token_is_refused(models: dict[str, Path]) -> None:
    with start_engine(models["llama"], SETTINGS) as engine:
        with pytest.raises(SimulationError, match="a prompt of 128 tokens; the engine takes less than 128"):
            engine.add("full", [1] * 128, 1)
        assert not engine.busy()


def test_what_cannot_be_recorded(tmp_path: Path, trace: Trace) -> None:
    with pytest.raises(SimulationError, match="0 repeats"):
        record_runs(tmp_path, trace, SETTINGS, repeats=0)
    with pytest.raises(SimulationError, match="max_model_len is 64"):
        record_runs(tmp_path, trace, EngineSettings(max_model_len=64))
    with pytest.raises(SimulationError, match=r"no config\.json"):
        record_runs(tmp_path, trace, SETTINGS)
