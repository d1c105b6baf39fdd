"""A GPU that is slower than it should be: what NVML says, and what is done about it; no GPU is needed."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from dooly.cli.record import _slowdown
from dooly.database import Samples
from dooly.executor import session
from dooly.executor.session import Session
from dooly.executor.timing import gpu as gpu_timing
from dooly.executor.timing.cpu import ALONE, Precision
from dooly.executor.timing.gpu import check_clocks, check_told_apart
from dooly.executor.trial import Trial
from dooly.hardware.gpu import Reading, Slowed, slowed_by

pytestmark = pytest.mark.engine


@pytest.mark.parametrize(
    ("reasons", "words"),
    [(0x0, ""), (0x1, ""), (0x4, ""), (0x13, ""), (0x20, "heat"), (0x68, "heat"), (0x88, "its power supply")],
)
def test_only_what_is_wrong_slows_a_gpu_down(reasons: int, words: str):
    """Idle clocks, a set limit and the power cap are how a GPU works."""
    assert slowed_by(reasons) == words


def test_a_reading_says_how_slow_and_how_hot():
    assert str(Reading(345.0, 1980.0, 2619.0, 87.0, 90.0)) == "345 of 1980 MHz at 87 degrees Celsius"


def test_ranks_stop_together_when_one_of_their_gpus_is_too_hot():
    """Each asks with its own reading and hears of the others'."""
    cool = Reading(1980.0, 1980.0, 2619.0, 40.0, 300.0)
    heard: list[list[float]] = []

    def slowest(values: list[float]) -> list[float]:
        heard.append(values)
        return [1.0]

    check_clocks(cool, ALONE)
    with pytest.raises(Slowed, match="another, of its peers"):
        check_clocks(cool, replace(ALONE, slowest=slowest))
    with pytest.raises(Slowed, match=r"by heat \(345 of 1980 MHz at 87 degrees Celsius\)"):
        check_clocks(Reading(345.0, 1980.0, 2619.0, 87.0, 90.0, "heat"), replace(ALONE, slowest=slowest))
    assert heard == [[0.0], [1.0]]


def test_a_recording_says_that_its_gpu_is_too_hot(monkeypatch, capsys):
    """Or one of its GPUs: all ranks wait for it."""
    cool, hot = Reading(1980.0, 1980.0, 2619.0, 40.0, 300.0), Reading(345.0, 1980.0, 2619.0, 87.0, 90.0, "heat")
    monkeypatch.setattr("dooly.hardware.gpu.Gauge", lambda rank: SimpleNamespace(read=lambda: (cool, hot)[rank]))
    assert _slowdown(SimpleNamespace(device="cpu"), 2) == _slowdown(SimpleNamespace(device="cuda"), 1) == {}
    assert _slowdown(SimpleNamespace(device="cuda"), 2) == {"slowed by": "heat, 345 of 1980 MHz at 87 degrees Celsius"}
    assert "record again when it is well" in capsys.readouterr().err


@pytest.mark.parametrize(("hot", "kept"), [(0, True), (2, True), (3, False)])
def test_a_gpu_gets_time_to_cool_down(somewhere, tmp_path, monkeypatch, hot: int, kept: bool):
    samples, tries = Samples((5.0,)), []

    def measure(*_, **__) -> Samples:
        tries.append(1)
        if len(tries) <= hot:
            raise Slowed("heat")
        return samples

    monkeypatch.setattr(gpu_timing, "measure_on_gpu", measure)
    monkeypatch.setattr(session, "_PAUSES_S", (0.0, 0.0))
    opened = Session(replace(somewhere, platform="h100"), tmp_path)
    if not kept:
        with pytest.raises(Slowed):
            opened.measure(Trial(lambda: None, ()), Precision())
        return
    assert opened.measure(Trial(lambda: None, ()), Precision()) is samples
    assert len(tries) == hot + 1


def test_what_cannot_be_told_from_the_rest_of_a_step_has_no_latency():
    check_told_apart([-30.0, 2.4, 2.5])
    with pytest.raises(RuntimeError, match="less time than what is around it"):
        check_told_apart([-0.1, 0.0, 2.5])
