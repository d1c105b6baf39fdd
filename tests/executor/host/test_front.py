"""What a load shows of the front of a server."""

import math
from dataclasses import replace

import pytest

from dooly.database import Point
from dooly.engine.client import ServedRequest
from dooly.engine.step_log import LoggedStep
from dooly.executor.host.front import front_samples

ALONE = ServedRequest(100, 2, 0, 1.0, 1.005, 1.006, 1.020, 1.022, 1.030)
STEP = LoggedStep(1.006, 1.007, 1.008, 1.009, 1.019, 1.020, 5.5, math.nan, "NONE", 100, (), ((100, 0),), (), ())
LAST = replace(STEP, start_s=1.021, end_s=1.027, requests=((1, 100),))


def test_a_request_by_itself():
    found = front_samples([ALONE], [STEP, LAST], cpu_s=0.003)
    assert found.keys() == {
        ("front_in", Point.of(R=1, T=100)),
        ("front_out", Point.of(R=1)),
        ("front_cpu", Point.of(L=2, N=2, R=1, T=100)),
    }
    assert found["front_in", Point.of(R=1, T=100)] == [pytest.approx(5000.0)]
    assert found["front_out", Point.of(R=1)] == [pytest.approx(2000.0)]
    assert found["front_cpu", Point.of(L=2, N=2, R=1, T=100)] == [3000.0]


def test_many_at_once_wait_for_those_before_them():
    """Three are sent together and come through one after the other; a fourth is sent when two of them are through."""
    times = ((0.0, 0.002, 10), (0.0, 0.004, 20), (0.0, 0.006, 30), (0.005, 0.008, 40))
    burst = [replace(ALONE, prompt_tokens=tokens, sent_s=sent, arrived_s=at) for sent, at, tokens in times]
    found = front_samples(burst, [STEP], 0.01)
    waited = {point: us for (part, point), us in found.items() if part == "front_in"}
    assert waited == {
        Point.of(R=1, T=10): [pytest.approx(2000.0)],
        Point.of(R=2, T=30): [pytest.approx(4000.0)],
        Point.of(R=3, T=60): [pytest.approx(6000.0)],
        Point.of(R=2, T=70): [pytest.approx(3000.0)],
    }


def test_what_was_not_logged_says_nothing():
    unseen = replace(ALONE, arrived_s=math.nan, admitted_s=math.nan, sampled_s=math.nan)
    assert front_samples([unseen], [], 0.01) == {}
