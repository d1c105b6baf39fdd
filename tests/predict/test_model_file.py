import json
from pathlib import Path

import pytest
from hypothesis import given

from dooly.batch import Batch
from dooly.errors import PredictError
from dooly.ir.program import Program
from dooly.predict import SavedModel
from tests.adapters.conftest import LAYERS, dense, mixture, saved
from tests.predict.test_step_model import steps


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[SavedModel, SavedModel]:
    model = saved("moe", mixture("moe"), E=8, K=2)
    path = tmp_path_factory.mktemp("saved") / "moe.json"
    model.save(path)
    return model, SavedModel.load(path)


@given(steps)
def test_what_is_read_predicts_bit_by_bit_the_same(pair: tuple[SavedModel, SavedModel], batch: Batch) -> None:
    model, again = pair
    assert again.steps.step_time(batch) == model.steps.step_time(batch)


def test_facts_survive(pair: tuple[SavedModel, SavedModel]) -> None:
    model, again = pair
    assert (again.name, again.device, again.memory_bytes) == ("moe", "NVIDIA H200", 141 << 30)
    assert (again.config, again.settings) == (model.config, model.settings)
    assert str(Program((), again.operations)) == str(Program((), model.operations))
    assert again.layers == LAYERS
    assert again.tensor_parallel == 1


def test_only_what_the_model_needs_is_kept() -> None:
    model = saved("small", dense("small"))
    used = {operation.signature for operation in model.operations}
    assert used | {"host_before", "host_after", "host_dispatch"} == set(model.formulas)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no json", "not JSON"),
        ("[]", "not step times of form 4"),
        ('{"format": 99}', "not step times of form 4"),
        ('{"format": 4, "model": "m"}', "damaged"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "steps.json"
    path.write_text(text)
    with pytest.raises(PredictError, match=message) as error:
        SavedModel.load(path)
    assert "\n" not in str(error.value)
    assert "dooly export steps" in str(error.value)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(PredictError, match="No such file"):
        SavedModel.load(tmp_path / "none.json")


def test_damaged_operations_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "steps.json"
    saved("small", dense("small")).save(path)
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"operations": "graph ("}))
    with pytest.raises(PredictError, match="damaged"):
        SavedModel.load(path)


def test_an_infinite_count_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "steps.json"
    saved("small", dense("small")).save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"memory_bytes": float("inf")}))
    with pytest.raises(PredictError, match="damaged"):
        SavedModel.load(path)
