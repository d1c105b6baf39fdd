"""One latency of a point, in tables and in fits."""

import random
import statistics
from dataclasses import replace

import pytest

from dooly.database import Measurement, Point, Samples, Status
from dooly.database.latency import LESS, latency_of
from dooly.errors import FitError
from dooly.fit import Observation
from dooly.host import PARTS


def test_quiet_samples_have_their_median() -> None:
    noise = random.Random(0)
    values = [100 * noise.lognormvariate(0, 0.03) for _ in range(60)]
    latency, spread = latency_of("linear", values)
    assert latency == statistics.median(values)
    assert 0.02 < spread < 0.07


def test_disturbed_samples_do_not_count() -> None:
    noise = random.Random(1)
    values = [100 * noise.lognormvariate(0, 0.03) for _ in range(20)] + [noise.uniform(4e3, 2e4) for _ in range(40)]
    latency, spread = latency_of("linear", values)
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


@pytest.mark.parametrize("part", [part.name for part in PARTS] + ["4182a73512345678"])
def test_tables_and_fits_have_the_same_latency(part: str) -> None:
    measured = Measurement(part, "e", Point.of(R=4), Status.OK, None, Samples((40.0, 41.0, 44.0, 70.0, 90.0, 900.0)))
    assert Observation.of(measured).latency_us == measured.latency_us == measured.latency.us


def test_a_few_stalls_do_not_move_a_part_of_the_host() -> None:
    quiet, stalled = (40.0, 41.0, 42.0, 60.0, 61.0), (40.0, 41.0, 42.0, 6000.0, 61000.0)
    assert latency_of("host_between", quiet).us == latency_of("host_between", stalled).us == 42.0
    assert latency_of("host_between", (*quiet, 60.0, 62.0)).us == 60.0  # a host that is slow half of the time is slow


def test_a_difference_is_kept_as_it_was_measured() -> None:
    """Below zero, too: what it says is decided beside the other points."""
    samples = Samples((9500.0, 9510.0, 9520.0), aside=((LESS, 9600.0),))
    lead = Measurement("host_lead", "e", Point.of(R=64), Status.OK, None, samples)
    assert lead.latency_us == -90.0
    assert (Observation.of(lead).latency_us, Observation.of(lead).less_us) == (9510.0, 9600.0)
    assert not lead.derived
    assert replace(lead, samples=Samples((1.0, 20.0))).derived


@pytest.mark.parametrize("operation", ["linear", "host_after"])
@pytest.mark.parametrize("values", [[], [0.0, -2.0, 1.0], [-1.0], [float("nan"), 1.0]])
def test_times_must_be_positive(operation: str, values: list[float]) -> None:
    with pytest.raises(ValueError, match="measure the point again"):
        latency_of(operation, values)


def test_samples_that_say_nothing_are_no_observation() -> None:
    failed = Measurement("linear", "e", Point.of(T=1), Status.OK, None, Samples((-1.0,)))
    with pytest.raises(FitError, match="most of them not positive"):
        Observation.of(failed)


def test_a_difference_whose_second_timing_was_disturbed_is_no_latency() -> None:
    """It costs trust, though."""
    values = [10.0, 10.2, 9.9, 10.1] * 4
    assert latency_of("linear", [*values, -40.0]).us == latency_of("linear", values).us
    assert statistics.median(Samples((*values, -40.0)).undisturbed_us) == latency_of("linear", values).us
    assert latency_of("linear", [*values, -40.0]).spread > latency_of("linear", values).spread
