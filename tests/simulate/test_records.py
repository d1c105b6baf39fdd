"""Stored runs: read back equal; anything else in the file is one clear error."""

import json
from pathlib import Path

import pytest

from dooly.batch import Batch
from dooly.engine.settings import EngineSettings
from dooly.errors import DoolyError, SimulationError
from dooly.simulate.records import RequestRecord, Run, StepRecord, load_run, save_run

RUN = Run(
    source="measured",
    model="tiny",
    trace="t.csv",
    settings=EngineSettings(num_blocks=80),
    clipped=2,
    requests=(RequestRecord(0.0, 0.1, 0.3, 7, 3, 0, 1),),
    steps=(
        StepRecord(0.0, Batch.of((7, 0)), 10.5, 100.25, 3.0, 113.75, 99.0, "FULL", 8, (("schedule_us", 1.0),)),
        StepRecord(0.1, Batch.of((1, 7)), 1, 2, 3, 6),
    ),
    wall_s=0.4,
    facts=(("cpu", "x"), ("threads", "2")),
)


def test_round_trip(tmp_path: Path) -> None:
    save_run(RUN, tmp_path / "run.json")
    assert load_run(tmp_path / "run.json") == RUN


def test_refused_files(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    with pytest.raises(SimulationError, match="cannot be read"):
        load_run(path)
    for text in ("", "[]", "{}", '{"format": "dooly-run 3", "source": "measured"}'):
        path.write_text(text)
        with pytest.raises(SimulationError, match="not a recorded run"):
            load_run(path)
    path.write_text('{"format": "dooly-run 99"}')
    with pytest.raises(SimulationError, match="this version reads 'dooly-run 3'"):
        load_run(path)
    save_run(RUN, path)
    content = json.loads(path.read_text())
    for key, value, message in (
        ("source", "guessed", "expected simulated or measured"),
        ("settings", {"max_num_seqs": 0}, "max_num_seqs is 0"),
        ("settings", {"speed": 3}, "not a recorded run"),
        ("steps", [{}], "not a recorded run"),
        ("steps", [content["steps"][0] | {"batch": []}], "no requests"),
        ("facts", 3, "not a recorded run"),
    ):
        path.write_text(json.dumps(content | {key: value}))
        with pytest.raises(SimulationError, match=message):
            load_run(path)


def test_unwritable(tmp_path: Path) -> None:
    with pytest.raises(DoolyError, match="cannot write"):
        save_run(RUN, tmp_path / "no" / "run.json")
