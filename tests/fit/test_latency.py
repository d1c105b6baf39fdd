import random
import statistics
from dataclasses import replace

import pytest

from dooly.database import Measurement, Point, Samples, Status
from dooly.errors import FitError
from dooly.fit import Observation
from dooly.fit.latency import served_us, typical_us


def test_quiet_samples_have_their_median() -> None:
    noise = random.Random(0)
    values = [100 * noise.lognormvariate(0, 0.03) for _ in range(60)]
    latency, spread = typical_us(values)
    assert latency == statistics.median(values)
    assert 0.02 < spread < 0.07


def test_disturbed_samples_do_not_count() -> None:
    noise = random.Random(1)
    values = [100 * noise.lognormvariate(0, 0.03) for _ in range(20)] + [noise.uniform(4e3, 2e4) for _ in range(40)]
    latency, spread = typical_us(values)
    assert latency == pytest.approx(100, rel=0.03)
    assert spread > 0.06  # but they cost trust


def test_observation_of_a_measurement() -> None:
    aside = (("metadata_us", 70.0), ("queued_us", 30.0), ("power_w", 300.0))
    samples = Samples((5.0, 5.0, 5.0, 900.0), aside=aside)
    found = Observation.of(Measurement("op", "e", Point.of(T=3), Status.OK, None, samples))
    assert (found.sizes, found.latency_us, found.spread, found.plan_us) == ((("T", 3),), 5.0, 0.0, 70.0)
    assert found.queued_us == 30.0
    unknown = Observation.of(Measurement("op", "e", Point.of(T=3), Status.OK, None, replace(samples, aside=())))
    assert (unknown.plan_us, unknown.queued_us) == (0.0, 0.0)


def test_a_part_of_the_host_takes_what_a_step_waits_for() -> None:
    samples = Samples((40.0, 40.0, 70.0, 900.0))
    point = Point.of(R=4)
    of_the_host = Measurement("host_between", "e", point, Status.OK, None, samples)
    assert Observation.of(of_the_host).latency_us == pytest.approx(50.0)
    assert Observation.of(replace(of_the_host, operation="4182a73512345678")).latency_us == 40.0


@pytest.mark.parametrize("values", [[], [0.0, -2.0, 1.0], [-1.0], [float("nan"), 1.0]])
def test_times_must_be_positive(values: list[float]) -> None:
    for stands_for in (typical_us, served_us):
        with pytest.raises(FitError, match="measure the point again"):
            stands_for(values)


def test_a_difference_whose_second_timing_was_disturbed_is_no_latency() -> None:
    """It costs trust, though."""
    values = [10.0, 10.2, 9.9, 10.1] * 4
    assert typical_us([*values, -40.0])[0] == typical_us(values)[0]
    assert statistics.median(Samples((*values, -40.0)).undisturbed_us) == typical_us(values)[0]
    assert typical_us([*values, -40.0])[1] > typical_us(values)[1]
    with pytest.raises(FitError, match="some not positive"):
        served_us([*values, -40.0])
