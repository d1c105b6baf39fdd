"""Recordings of the real engine: what is kept comes back, with either scheduling, and damaged files say so."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import dooly
from dooly.engine.local import start_engine
from dooly.engine.settings import EngineSettings
from dooly.errors import SimulationError
from dooly.evaluate.record import record_trace, warm_up
from dooly.evaluate.recording import Recording, load_recording, save_recording
from dooly.simulate import Run, shipped_trace, simulate

SETTINGS = EngineSettings(max_num_seqs=4, max_num_batched_tokens=64, max_model_len=64, async_scheduling=True)
TRACE = shipped_trace("azure-conv").first(8).clip(64).at_rate(1000)


@pytest.fixture(scope="module")
def runs(models: dict[str, Path]) -> list[Run]:
    """One pass with each scheduling, by one engine."""
    rng = np.random.default_rng(0)
    with start_engine(models["llama"], SETTINGS) as engine:
        warm_up(engine, TRACE, rng)
        assert engine.overlaps
        found = [record_trace(engine, "llama", TRACE, SETTINGS, rng)]
        engine.overlaps = False
        return [*found, record_trace(engine, "llama", TRACE, SETTINGS, rng)]


@pytest.mark.engine
@pytest.mark.parametrize("asynchronous", [True, False])
def test_all_at_once_gives_the_batches_of_the_scheduler(
    runs: list[Run], models: dict[str, Path], asynchronous: bool
) -> None:
    """Requests that arrive within a few milliseconds are all there at the second step."""
    run = runs[0 if asynchronous else 1]
    assert run.settings.async_scheduling is asynchronous
    at_once = replace(TRACE, requests=tuple(replace(request, arrival_s=0.0) for request in TRACE.requests))
    expected = simulate(models["llama"], at_once, lambda _: 1e-3, run.settings)
    assert sum(step.batch.tokens for step in run.steps) == sum(step.batch.tokens for step in expected.steps)
    assert [step.batch.kind for step in run.steps][-3:] == [step.batch.kind for step in expected.steps][-3:]
    assert max(step.batch.count for step in run.steps) == SETTINGS.max_num_seqs


@pytest.mark.engine
def test_a_recording_comes_back(runs: list[Run], tmp_path: Path) -> None:
    kept = [runs[0], replace(runs[1], steps=(), unlisted=(len(runs[1].steps), 9))]
    recording = Recording("llama", 1, "CPU_ATTN", runs[0].facts, tuple(kept))
    save_recording(recording, tmp_path / "a.json.gz")
    back = load_recording(tmp_path / "a.json.gz")
    assert (back.model, back.tp, back.backend, dict(back.facts)) == ("llama", 1, "CPU_ATTN", dict(runs[0].facts))
    for run, before in zip(back.runs, kept, strict=True):
        assert run.settings == before.settings
        assert run.step_count == before.step_count
        for ours, theirs in zip(run.requests, before.requests, strict=True):
            assert ours.first_token_s == pytest.approx(theirs.first_token_s, abs=1e-6)
            assert (ours.prompt_tokens, ours.output_tokens) == (theirs.prompt_tokens, theirs.output_tokens)
        for ours, theirs in zip(run.steps, before.steps, strict=True):
            assert ours.batch.point() == theirs.batch.point()
            assert ours.total_us == pytest.approx(theirs.total_us, abs=0.06)
    save_recording(back, tmp_path / "b.json.gz")
    assert (tmp_path / "a.json.gz").read_bytes() == (tmp_path / "b.json.gz").read_bytes()


@pytest.mark.engine
def test_scheduling_is_not_changed_under_way(models: dict[str, Path]) -> None:
    with start_engine(models["llama"], replace(SETTINGS, async_scheduling=False)) as engine:
        assert not engine.overlaps
        with pytest.raises(SimulationError, match="started without asynchronous scheduling"):
            engine.overlaps = True
        engine.add("a", [1, 2, 3], 2)
        with pytest.raises(SimulationError, match="the engine is busy"):
            engine.overlaps = False
        while engine.busy():
            engine.step()


def test_files_that_hold_none(tmp_path: Path) -> None:
    path = tmp_path / "a.json.gz"
    with pytest.raises(SimulationError, match="cannot be read"):
        load_recording(path)
    path.write_text("{}")
    with pytest.raises(SimulationError, match="not a recording"):
        load_recording(path)
    for text, message in (("[]", "not a recording"), ('{"format": "dooly-recording 99"}', "this version reads")):
        path.write_bytes(gzip.compress(text.encode()))
        with pytest.raises(SimulationError, match=message):
            load_recording(path)
    fields = {"format": "dooly-recording 1", "model": "m", "tp": 1, "backend": "", "facts": {}, "runs": [{}]}
    path.write_bytes(gzip.compress(json.dumps(fields).encode()))
    with pytest.raises(SimulationError, match="not a recording: KeyError"):
        load_recording(path)


def test_a_recording_of_no_model_is_refused(tmp_path):
    (shipped, *_) = sorted((Path(dooly.__path__[0]) / "data" / "recorded").glob("*.json.gz"))
    content = json.loads(gzip.decompress(shipped.read_bytes()))
    path = tmp_path / "nameless.json.gz"
    path.write_bytes(gzip.compress(json.dumps({**content, "model": ""}).encode(), 1))
    with pytest.raises(SimulationError, match=r"nameless\.json\.gz.*expected a name, found ''"):
        load_recording(path)
