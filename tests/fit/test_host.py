"""Steps of a host, split by one regression."""

import random

import pytest

from dooly.errors import FitError
from dooly.fit import Observation, fit_host

LAUNCH = "host_launch_none"


def seen(us: float, less_us: float = 0.0, **sizes: int) -> Observation:
    return Observation(tuple(sorted(sizes.items())), None, us, less_us=less_us)


def test_what_a_mixture_takes_comes_out_of_whole_steps():
    """A host that scatters does so with either model, and none of it is booked to the mixtures."""
    noise = random.Random(0)

    def step(others: int, requests: int, mixtures: int = 0) -> Observation:
        us = (1500.0 + 60.0 * others + 900.0 * mixtures) * noise.lognormvariate(0, 0.05)
        return seen(us, N=others, R=requests, **({"X": mixtures} if mixtures else {}))

    requests = (1, 4, 16, 64)
    plain = [step(others, each) for others in (75, 579) for each in requests]
    whole = [*plain, *(step(3 + 8 * mixtures, each, mixtures) for mixtures in (8, 24) for each in requests)]
    formula = fit_host(LAUNCH, whole)
    values = {each.name: each.value for each in formula.parameters}
    assert values["per_operation"] == pytest.approx(60.0, rel=0.1)
    assert values["per_mixture"] == pytest.approx(900.0, rel=0.1)
    assert "X" in formula.symbols
    assert "X" not in fit_host(LAUNCH, plain).symbols


def test_a_lead_is_found_among_points_that_noise_made_negative():
    """A lead of 150 us beside graphs of 5 to 20 ms that scatter by 2 %: some differences are below zero."""
    noise = random.Random(1)
    points = []
    for requests in (1, 2, 4, 8, 16, 32, 64, 128, 256):
        busy_us = 5000.0 + 60.0 * requests
        points.append(seen((busy_us + 150.0) * noise.gauss(1.0, 0.02), busy_us, R=requests))
    assert any(each.latency_us < each.less_us for each in points)
    lead_us, extrapolated = fit_host("host_lead", points).predict_one({"R": 512.0})
    assert 20.0 < lead_us < 400.0
    assert not extrapolated  # it does not depend on them


def test_operations_of_a_cpu_wait_for_one_another():
    points = [seen(2000.0 + 40.0 + 5.0 * count, 2000.0, N=count) for count in (40, 100, 200)]
    assert fit_host("host_dispatch", points).predict_one({"N": 150.0})[0] == pytest.approx(790.0, rel=0.01)


def test_nothing_is_left_of_less_than_nothing():
    with pytest.raises(FitError, match="nothing is left of its 2 points"):
        fit_host("host_lead", [seen(90.0, 100.0, R=1), seen(190.0, 200.0, R=4)])
