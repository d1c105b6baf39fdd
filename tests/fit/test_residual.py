import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dooly.fit.residual import BOUND, Curve, Field, fit_curve, fit_field
from dooly.ir.expr import symbol

times = st.lists(st.floats(1.0, 1e5), min_size=3, max_size=30, unique=True)


@given(times, st.lists(st.floats(0.1, 10.0), min_size=30, max_size=30))
def test_curve_is_bounded_monotone_and_fades(symbolic: list[float], factors: list[float]) -> None:
    at = np.array(sorted(symbolic))
    curve = fit_curve(at, at * np.array(factors[: len(at)]), np.ones(len(at)))
    if curve is None:
        return
    probe = np.geomspace(at[0] / 100, at[-1] * 100, 500)
    factor = curve.scale(probe, {})
    assert np.all(np.abs(np.log(factor)) <= BOUND + 1e-9)
    assert np.all(np.diff(probe * factor) >= -1e-9 * (probe * factor)[1:])
    assert factor[0] == factor[-1] == 1.0
    assert [curve.scale_one(x, {}) for x in probe.tolist()] == pytest.approx(factor.tolist(), rel=1e-12)


def test_curve_goes_through_points_that_rise() -> None:
    at = np.array([1.0, 2.0, 4.0, 8.0])
    curve = fit_curve(at, at * [1.1, 1.2, 0.9, 1.0], np.ones(4))
    assert curve is not None
    np.testing.assert_allclose(curve.scale(at, {}), [1.1, 1.2, 0.9, 1.0])


def test_curve_pools_points_that_fall() -> None:
    at = np.array([1.0, 1.1, 8.0])
    curve = fit_curve(at, np.array([1.3, 1.0, 8.0]), np.ones(3))
    assert curve is not None
    corrected = at * curve.scale(at, {})
    assert corrected[0] == pytest.approx(corrected[1]) == pytest.approx(np.sqrt(1.3))


def test_curve_needs_three_different_times() -> None:
    assert fit_curve(np.array([1.0, 1.0, 2.0]), np.array([1.0, 1.1, 2.0]), np.ones(3)) is None


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
    assert field.scale_one(11.0, {"R": 5.0, "T": 6.0}) == pytest.approx(field.scale(np.array([11.0]), between)[0])


def test_field_is_bounded() -> None:
    field = Field((symbol("T"),), ((4.0,), (8.0,)), (5.0, -5.0), 0.5)
    factor = field.scale(np.ones(2), {"T": np.array([4.0, 8.0])})
    np.testing.assert_allclose(factor, [2.0, 0.5])
    assert field.scale_one(1.0, {"T": 4.0}) == pytest.approx(2.0)


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
        lambda: Curve((), ()),
        lambda: Curve((2.0, 1.0), (1.0, 1.0)),
        lambda: Curve((1.0, 2.0), (1.0, 0.0)),
        lambda: Field((symbol("T"),), (), (), 1.0),
        lambda: Field((symbol("T"),), ((1.0, 2.0),), (1.0,), 1.0),
        lambda: Field((symbol("T"),), ((1.0,),), (1.0,), 0.0),
    ],
)
def test_impossible_residuals_are_refused(build) -> None:
    with pytest.raises(ValueError):
        build()
