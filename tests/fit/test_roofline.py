import pytest

from dooly.fit import Observation, fit, reached
from dooly.fit.chart import formula_chart
from dooly.fit.roofline import roofline_us
from dooly.fit.target import subject_of
from dooly.hardware.gpus import PLATFORMS, PlatformSpec
from tests.fit.laws import SIZES, attention, batches, flops, linear, moved, over_batches, over_tokens

OPERATION = linear(4096, 4096)


def law(values: dict[str, float]) -> float:
    return 4.0 + max(flops(OPERATION, values) / 500e6, moved(OPERATION, values) / 2e6)


def test_what_points_reach_is_their_best_by_the_operations_own_work() -> None:
    points = over_tokens(law)
    found = reached(subject_of(OPERATION), points)
    assert found.tflops == pytest.approx(500, rel=0.03)
    assert found.gbs == pytest.approx(max(moved(OPERATION, {"T": n}) / law({"T": n}) / 1e3 for n in SIZES))
    assert found.beside(PlatformSpec(tflops=1000.0, gbs=4000.0)).startswith("reaches 49")
    assert "%" not in found.beside(None)


def test_no_measured_time_is_below_the_roofline_of_its_law() -> None:
    points = over_tokens(law)
    columns = subject_of(OPERATION).columns(points)
    for each, least in zip(
        points, roofline_us(subject_of(OPERATION), columns, PlatformSpec(tflops=500, gbs=2000)), strict=True
    ):
        assert each.latency_us == pytest.approx(least + 4.0)


def test_the_datasheets_are_of_the_known_gpus() -> None:
    assert {name for name, spec in PLATFORMS.items() if spec.tflops} == {
        name for name, spec in PLATFORMS.items() if spec.is_cuda
    }


def test_a_chart_shows_each_point_the_formula_and_the_roofline() -> None:
    points = over_tokens(law)
    picture = formula_chart(fit(OPERATION, points), subject_of(OPERATION), points, PLATFORMS["h200"])
    assert picture.count("<circle") == len(points)
    assert picture.count("<polyline") == 2
    assert 'stroke-dasharray="5 4"' in picture
    assert "{&quot;T&quot;:1}" in picture
    bare = formula_chart(fit(OPERATION, points), subject_of(OPERATION), points)
    assert bare.count("<polyline") == 1


def test_of_several_sizes_the_chart_is_over_the_fitted_time() -> None:
    operation = attention()
    points = over_batches(lambda v: 5.0 + flops(operation, v) / 500e6 + moved(operation, v) / 3e6, batches())
    picture = formula_chart(fit(operation, points), subject_of(operation), points, PLATFORMS["h100"])
    assert picture.count("<circle") == picture.count("<rect") - 1 == len(points)
    assert "fitted (us)" in picture


def test_points_of_something_else_are_refused() -> None:
    from dooly.errors import FitError

    with pytest.raises(FitError):
        reached(subject_of(OPERATION), [Observation((("A", 1),), None, 1.0)])
