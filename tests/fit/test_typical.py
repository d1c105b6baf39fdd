import random
import statistics

import pytest

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


def test_observation_of_samples() -> None:
    observation = Observation.of_samples('{"T":3}', [5.0, 5.0, 5.0, 900.0])
    assert (observation.sizes, observation.latency_us, observation.spread) == ((("T", 3),), 5.0, 0.0)


@pytest.mark.parametrize("values", [[], [0.0, 1.0], [-1.0], [float("nan"), 1.0]])
def test_times_must_be_positive(values: list[float]) -> None:
    with pytest.raises(FitError, match="expected positive times"):
        typical_us(values)
