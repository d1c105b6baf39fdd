import pytest
from hypothesis import given

from dooly.batch import Batch
from dooly.errors import PredictError
from dooly.predict import Parts, SavedModel
from tests.adapters.conftest import dense, saved
from tests.predict.test_step_model import steps


@pytest.fixture(scope="module")
def model() -> SavedModel:
    return saved("small", dense("small"))


@given(steps)
def test_parts_and_dispatch_make_the_device_time(model: SavedModel, batch: Batch) -> None:
    parts = Parts(model.steps, ("gemm", "rest"), lambda w: {"gemm" if w.operation.target == "linear" else "rest": 1.0})
    cost, times, dispatch = parts.at(batch)
    assert cost == model.steps.step_time(batch)
    assert sum(times) + dispatch == pytest.approx(cost.device_us, rel=1e-12)
    rows = model.steps.breakdown(batch).rows
    assert times[0] == pytest.approx(sum(row.total_us for row in rows if row.kind == "gemm"), rel=1e-9)
    assert dispatch == pytest.approx(sum(row.total_us for row in rows if row.name == "host_dispatch"), abs=1e-6)


def test_work_can_be_shared_between_parts(model: SavedModel) -> None:
    parts = Parts(model.steps, ("a", "b"), lambda _: {"a": 0.25, "b": 0.75})
    _, (a, b), _ = parts.at(Batch.of((7, 9)))
    assert b == pytest.approx(3 * a)


@pytest.mark.parametrize("shares", [{"a": 0.5}, {"other": 1.0}])
def test_shares_that_divide_nothing_are_refused(model: SavedModel, shares: dict[str, float]) -> None:
    with pytest.raises(PredictError, match="no division"):
        Parts(model.steps, ("a",), lambda _: shares)
