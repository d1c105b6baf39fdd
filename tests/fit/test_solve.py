import numpy as np
import pytest

from dooly.fit.solve import estimate, intervals
from dooly.fit.target import subject_of
from dooly.fit.terms import Contribution, regimes
from tests.fit.laws import SIZES, linear

SUBJECT = subject_of(linear(4096, 6144))
T = np.array(SIZES, dtype=float)
COLUMNS = {"T": T}
EQUAL = np.ones(len(T))
LAUNCH = Contribution("launch", SUBJECT.flops**0)
PEAK, BANDWIDTH = Contribution("peak", SUBJECT.flops), Contribution("bandwidth", SUBJECT.bytes)
ROOFLINE = ((LAUNCH,), (PEAK, BANDWIDTH))


def roofline(launch: float, peak: float, bandwidth: float) -> np.ndarray:
    flops, moved = 2 * 4096 * 6144 * T, 2 * (4096 * T + 6144 * T + 4096 * 6144)
    return launch + np.maximum(flops / (1e6 * peak), moved / (1e3 * bandwidth))


def test_exact_data_gives_exact_parameters() -> None:
    found = estimate(ROOFLINE, COLUMNS, roofline(3.0, 600.0, 2500.0), EQUAL)
    assert found is not None
    assert found.structure == ROOFLINE
    np.testing.assert_allclose(found.coefficients, [3.0, 1 / 600.0, 1 / 2500.0], rtol=1e-4)


def test_a_few_wild_points_do_not_move_the_parameters() -> None:
    noise = np.random.default_rng(1)
    latency = roofline(3.0, 600.0, 2500.0) * noise.lognormal(0, 0.01, len(T))
    latency[[3, 11, 17]] *= [4.0, 3.0, 0.3]
    found = estimate(ROOFLINE, COLUMNS, latency, EQUAL)
    assert found is not None
    np.testing.assert_allclose(found.coefficients[1:], [1 / 600.0, 1 / 2500.0], rtol=0.05)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    truth = np.array([3.0, 1 / 600.0, 1 / 2500.0])
    inside = 0
    for seed in range(60):
        latency = roofline(3.0, 600.0, 2500.0) * np.random.default_rng(seed).lognormal(0, 0.02, len(T))
        found = estimate(ROOFLINE, COLUMNS, latency, EQUAL)
        assert found is not None
        assert found.structure == ROOFLINE
        bounds = intervals(found, COLUMNS, latency, EQUAL)
        inside += sum(low <= value <= high for (low, high), value in zip(bounds, truth, strict=True))
    assert inside / 180 > 0.88


def test_intervals_are_open_without_spare_points() -> None:
    two = {"T": np.array([1.0, 8192.0])}
    found = estimate(((LAUNCH,), (PEAK,)), two, np.array([5.0, 800.0]), np.ones(2))
    assert found is not None
    assert intervals(found, two, np.array([5.0, 800.0]), np.ones(2)) == [(0.0, float("inf"))] * 2


def test_what_counts_nowhere_is_dropped() -> None:
    slow_memory = np.array([1.0, 2.0, 4.0, 8.0])
    moved = 2 * (4096 * slow_memory + 6144 * slow_memory + 4096 * 6144)
    found = estimate(((PEAK, BANDWIDTH),), {"T": slow_memory}, moved / 1e3 / 20.0, np.ones(4))
    assert found is not None
    assert found.structure == ((BANDWIDTH,),)


def test_of_parameters_that_the_points_cannot_tell_apart_one_is_kept() -> None:
    same = {"T": np.full(4, 16.0)}
    found = estimate(((PEAK,), (BANDWIDTH,), (LAUNCH,)), same, np.full(4, 30.0), np.ones(4))
    assert found is not None
    assert len(found.coefficients) == 1


@pytest.mark.parametrize("structure", list(regimes(SUBJECT, len(T))[0][0].structures))
def test_no_candidate_predicts_a_negative_time(structure: tuple) -> None:
    latency = roofline(3.0, 600.0, 2500.0)[::-1].copy()  # the wrong way round: nothing fits
    found = estimate(structure, COLUMNS, latency, EQUAL)
    if found is not None:
        assert min(found.coefficients) > 0
        assert np.all(found.predict(COLUMNS, len(T)) > 0)


def test_points_that_scatter_count_less() -> None:
    latency = roofline(3.0, 600.0, 2500.0)
    trust = EQUAL.copy()
    latency[::2] *= 1.5
    trust[::2] = 0.001
    found = estimate(ROOFLINE, COLUMNS, latency, trust)
    assert found is not None
    np.testing.assert_allclose(found.coefficients[1:], [1 / 600.0, 1 / 2500.0], rtol=0.03)
