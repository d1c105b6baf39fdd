"""A GPU that is slower than it should be: what NVML says, and what is done about it; no GPU is needed."""

from dataclasses import replace

import pytest

from dooly.database import Samples
from dooly.executor import gpu_timing, session
from dooly.executor.gpu import Reading, Slowed, slowed_by
from dooly.executor.runner import Trial
from dooly.executor.session import Session
from dooly.executor.timing import Precision

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
