import random
import statistics
from dataclasses import replace

import pytest

from dooly.database import Measurement, Point, Samples, Status
from dooly.errors import FitError
from dooly.fit import Observation, typical_us


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


@pytest.mark.parametrize("values", [[], [0.0, 1.0], [-1.0], [float("nan"), 1.0]])
def test_times_must_be_positive(values: list[float]) -> None:
    with pytest.raises(FitError, match="expected positive times"):
        typical_us(values)
