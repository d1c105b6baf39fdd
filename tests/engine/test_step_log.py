"""The log of an engine core's steps: what was written is read, and a killed process costs at most its last entry."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from dooly.engine.step_log import LoggedRequest, LoggedStep, StepLog, read_step_log
from dooly.errors import SimulationError

REQUESTS = [LoggedRequest(0, "cmpl-c1-100-0-0-ab", 1024, 1.5), LoggedRequest(1, "né", 7, 2.25)]
STEPS = [
    LoggedStep(1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 1024.0, 16.0, "NONE", 1031, (0, 1), ((1008, 16), (7, 0)), (0, 1), ()),
    LoggedStep(4.0, 4.5, 5.0, 5.5, 6.0, 6.5, 512.0, 0.5, "FULL", 2, (1,), ((1, 7),), (), (0,)),
]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "steps.bin"
    with open(path, "xb", buffering=0) as file:
        log = StepLog(file)
        for request in REQUESTS:
            log.request(request)
        for step in STEPS:
            log.step(step)
    return path


def test_what_was_written_is_read(log: Path):
    assert read_step_log(log) == (REQUESTS, STEPS)


def test_what_was_not_seen_is_nan(tmp_path: Path):
    path = tmp_path / "steps.bin"
    unseen = replace(STEPS[0], called_s=math.nan, issued_s=math.nan, device_us=math.nan, gap_us=math.nan, mode="")
    with open(path, "xb", buffering=0) as file:
        StepLog(file).step(unseen)
    (step,) = read_step_log(path)[1]
    assert step.mode == ""
    assert all(map(math.isnan, (step.called_s, step.issued_s, step.device_us, step.gap_us)))


def test_an_entry_that_was_cut_short_is_left_out(log: Path):
    whole = log.read_bytes()
    for end in range(len(whole) - 1, len(whole) - 84, -7):
        log.write_bytes(whole[:end])
        requests, steps = read_step_log(log)
        assert requests == REQUESTS
        assert steps == STEPS[:1]


def test_another_file_is_refused(tmp_path: Path):
    path = tmp_path / "steps.bin"
    path.write_bytes(b"something else")
    with pytest.raises(SimulationError, match="not a step log of this release; record again"):
        read_step_log(path)
    with pytest.raises(SimulationError, match="cannot read"):
        read_step_log(tmp_path / "none.bin")
