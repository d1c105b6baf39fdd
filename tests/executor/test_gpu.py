"""On a GPU: kernels are timed from CUDA graphs, results are right, and clocks are recorded."""

import pytest

from dooly.database import Point
from dooly.executor import Precision, machine
from dooly.executor.runners import make_runner
from dooly.executor.session import open_session

pytestmark = [pytest.mark.gpu, pytest.mark.engine]


def test_a_linear_layer_is_timed_and_right(step):
    import torch

    with open_session(machine()) as session:
        trial = make_runner(step("bf16")["linear2 256"], session).trial(Point.of(T=64))
        samples = session.measure(trial, Precision.usual(session.device))
        assert trial.call().shape == (64, 256)
        assert torch.isfinite(trial.call().float()).all()
    assert len(samples.values_us) >= 15
    assert 0.5 < min(samples.values_us) < 1000.0
    assert samples.clock_mhz is not None
    assert {"memory_mhz", "power_w"} <= dict(samples.aside).keys()
