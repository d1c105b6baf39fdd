"""Formulas judged by points that they were not fitted to."""

import pytest

from dooly.errors import FitError
from dooly.evaluate.holdout import judge, unseen_errors
from dooly.fit import Observation, fit
from dooly.ir import Operation, TensorType, parse_expr


def tensor(*dims: object) -> TensorType:
    return TensorType("bf16", tuple(parse_expr(str(dim)) for dim in dims))


LINEAR = Operation("linear", (tensor("T", 4096), tensor(4096, 4096)), (tensor("T", 4096),))


def at(tokens: int, latency_us: float) -> Observation:
    return Observation((("T", tokens),), None, latency_us)


FORMULA = fit(LINEAR, [at(n, 10.0 + 0.5 * n) for n in (1, 4, 16, 64, 256, 1024, 4096)])


def test_errors_are_relative_to_what_was_measured_and_say_where_they_extrapolate():
    inside, slow, beyond = unseen_errors(LINEAR, FORMULA, [at(100, 60.0), at(100, 120.0), at(8192, 4106.0)])
    assert inside.error == pytest.approx(0.0, abs=0.1)
    assert slow.error == pytest.approx((1 + inside.error) / 2 - 1)
    assert (inside.extrapolated, beyond.extrapolated) == (False, True)
    assert inside.point == '{"T":100}'


def test_the_distribution_is_of_absolute_errors():
    errors = unseen_errors(LINEAR, FORMULA, [at(100, 30.0), at(100, 60.0), at(100, 120.0)])
    found = judge(errors)
    assert (found.points, found.extrapolated) == (3, 0)
    assert found.worst == pytest.approx(max(abs(each.error) for each in errors))
    assert found.median == pytest.approx(sorted(abs(each.error) for each in errors)[1])
    assert found.median <= found.p90 <= found.worst


def test_nothing_to_judge_by_is_an_error():
    with pytest.raises(FitError, match="nothing to judge a formula by"):
        judge([])
