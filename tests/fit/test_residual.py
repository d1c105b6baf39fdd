import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dooly.fit.residual import BOUND, Curve, Field, fit_curve, fit_field
from dooly.ir.expr import symbol

sizes = st.lists(st.integers(1, 10_000), min_size=1, max_size=30, unique=True)
factors = st.lists(st.floats(0.1, 10.0), min_size=30, max_size=30)


def law(size: np.ndarray) -> np.ndarray:
    return 3.0 + np.maximum(10.0, 0.1 * size)


@given(sizes, factors)
def test_curve_is_monotone_and_fades(at: list[int], factor: list[float]) -> None:
    size = np.array(sorted(at), dtype=float)
    curve = fit_curve("T", size, law, law(size) * np.array(factor[: len(size)]), np.ones(len(size)))
    probe = np.unique(np.concatenate([np.geomspace(0.5, 1e7, 500), size]))
    scale = curve.scale(law(probe), {"T": probe})
    corrected = law(probe) * scale
    assert np.all(np.diff(corrected) >= -1e-9 * corrected[1:])
    assert scale[-1] == 1.0
    one = [curve.scale_one(s, (t,)) for s, t in zip(law(probe).tolist(), probe.tolist(), strict=True)]
    assert one == pytest.approx(scale.tolist(), rel=1e-12)


def test_curve_goes_through_points_that_rise() -> None:
    at = np.array([1.0, 200.0, 400.0, 800.0])
    curve = fit_curve("T", at, law, law(at) * [1.1, 1.2, 0.9, 1.0], np.ones(4))
    np.testing.assert_allclose(curve.scale(law(at), {"T": at}), [1.1, 1.2, 0.9, 1.0])
    assert curve.scale_one(float(law(at)[0]), (1.0,)) == pytest.approx(1.1)


def test_curve_tells_sizes_apart_where_the_law_is_flat() -> None:
    at = np.array([1.0, 10.0, 100.0])
    curve = fit_curve("T", at, law, np.array([11.0, 12.0, 13.5]), np.ones(3))
    assert 13.0 * curve.scale_one(13.0, (10.0,)) == pytest.approx(12.0)
    assert 13.0 * curve.scale_one(13.0, (30.0,)) == pytest.approx(12.0 * (13.5 / 12.0) ** np.log10(3.0), rel=1e-3)


def test_curve_keeps_the_shape_of_the_law_between_its_points() -> None:
    at = np.array([1.0, 10_000.0])
    curve = fit_curve("T", at, law, 1.1 * law(at), np.ones(2))
    probe = np.geomspace(1.0, 10_000.0, 200)
    np.testing.assert_allclose(curve.scale(law(probe), {"T": probe}), 1.1, rtol=0.08)


def test_curve_pools_points_that_fall() -> None:
    at = np.array([1.0, 1.1, 800.0])
    curve = fit_curve("T", at, law, law(at) * [1.3, 1.0, 1.0], np.ones(3))
    corrected = law(at) * curve.scale(law(at), {"T": at})
    assert corrected[0] == pytest.approx(corrected[1], rel=1e-6) == pytest.approx(13.0 * np.sqrt(1.3), rel=2e-3)


def test_curve_follows_points_that_fall_where_they_may() -> None:
    at, factors = np.array([1.0, 512.0, 513.0, 608.0, 1024.0]), [1.0, 0.9, 1.3, 0.8, 1.0]
    curve = fit_curve("T", at, law, law(at) * factors, np.ones(5), rising=False)
    np.testing.assert_allclose(curve.scale(law(at), {"T": at}), factors)


def test_a_slow_kernel_of_one_size_is_not_that_of_its_neighbours() -> None:
    at = np.array([1.0, 513.0, 551.0, 608.0, 1024.0])
    curve = fit_curve("T", at, law, law(at) * [1.0, 1.0, 1.5, 1.0, 1.0], np.ones(5), rising=False)
    around = np.array([513.0, 530.0, 551.0, 580.0])
    np.testing.assert_allclose(curve.scale(law(around), {"T": around}), 1.0, rtol=1e-3)


def test_a_slow_kernel_between_sizes_16_rows_apart_stays() -> None:
    at = np.array([1.0, 520.0, 536.0, 552.0, 1024.0])
    curve = fit_curve("T", at, law, law(at) * [1.0, 1.0, 1.5, 1.0, 1.0], np.ones(5), rising=False)
    np.testing.assert_allclose(curve.scale(law(at), {"T": at}), [1.0, 1.0, 1.5, 1.0, 1.0])


def test_a_point_that_was_disturbed_is_as_its_neighbours_where_times_may_fall() -> None:
    at = np.array([1.0, 250.0, 500.0, 1000.0])
    disturbed, trust = np.array([1.4, 1.4, 1.9, 1.4]), np.array([1.0, 1.0, 0.1, 1.0])
    curve = fit_curve("T", at, law, law(at) * disturbed, trust, rising=False)
    np.testing.assert_allclose(curve.scale(law(at), {"T": at}), 1.4, rtol=0.05)


def test_corrections_of_a_curve_are_bounded() -> None:
    curve = fit_curve("T", np.array([4.0]), law, np.array([1000.0]), np.ones(1))
    assert np.log(curve.scale_one(13.0, (4.0,))) == pytest.approx(BOUND)


def grid() -> dict[str, np.ndarray]:
    a, b = np.meshgrid(2.0 ** np.arange(6), 2.0 ** np.arange(6))
    return {"R": a.ravel(), "T": b.ravel()}


def test_field_follows_a_smooth_bump_and_fades() -> None:
    columns = grid()
    symbolic = columns["R"] + columns["T"]
    ratio = 0.4 * np.exp(-((np.log2(columns["R"]) - 2) ** 2 + (np.log2(columns["T"]) - 3) ** 2) / 4)
    field = fit_field((symbol("R"), symbol("T")), columns, symbolic, symbolic * np.exp(ratio), np.ones(36))
    assert field is not None
    between = {"R": np.array([5.0]), "T": np.array([6.0])}
    truth = 0.4 * np.exp(-((np.log2(5) - 2) ** 2 + (np.log2(6) - 3) ** 2) / 4)
    assert np.log(field.scale(np.array([11.0]), between))[0] == pytest.approx(truth, abs=0.05)
    far = {"R": np.array([1e6]), "T": np.array([1e6])}
    assert field.scale(np.array([2e6]), far)[0] == pytest.approx(1.0)
    assert field.scale_one(11.0, (5.0, 6.0)) == pytest.approx(field.scale(np.array([11.0]), between)[0])


def test_field_is_bounded() -> None:
    field = Field((symbol("T"),), ((4.0,), (8.0,)), (5.0, -5.0), 0.5)
    factor = field.scale(np.ones(2), {"T": np.array([4.0, 8.0])})
    np.testing.assert_allclose(factor, [2.0, 0.5])
    assert field.scale_one(1.0, (4.0,)) == pytest.approx(2.0)


def test_field_refuses_noise() -> None:
    columns = grid()
    symbolic = columns["R"] + columns["T"]
    noise = np.random.default_rng(0).normal(0, 0.05, len(symbolic))
    field = fit_field((symbol("R"), symbol("T")), columns, symbolic, symbolic * np.exp(noise), np.ones(36))
    if field is not None:
        assert np.abs(np.log(field.scale(symbolic, columns))).max() < 0.05


@pytest.mark.parametrize(
    "build",
    [
        lambda: Curve("T", (), (), (1.0, 1.0)),
        lambda: Curve("T", (2.0, 1.0), (1.0, 1.0), (1.0, 1.0)),
        lambda: Curve("T", (1.0, 2.0), (0.0, 1.0), (1.0, 1.0)),
        lambda: Curve("T", (1.0, 2.0), (1.0, 1.0), (0.0, 1.0)),
        lambda: Field((symbol("T"),), (), (), 1.0),
        lambda: Field((symbol("T"),), ((1.0, 2.0),), (1.0,), 1.0),
        lambda: Field((symbol("T"),), ((1.0,),), (1.0,), 0.0),
    ],
)
def test_impossible_residuals_are_refused(build) -> None:
    with pytest.raises(ValueError):
        build()
