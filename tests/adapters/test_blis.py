import json
from dataclasses import replace
from pathlib import Path

import pytest

from dooly.adapters.blis import command, write_blis
from dooly.adapters.grid import Limits
from dooly.errors import PredictError
from dooly.predict import SavedModel
from tests.fit import laws

LIMITS = Limits(tokens=512, requests=16, context=2048)


def test_coefficients_and_device_are_written_with_their_error(model: SavedModel, tmp_path: Path) -> None:
    _, projection = write_blis(model, tmp_path, LIMITS, "H200")
    content = json.loads((tmp_path / "coefficients.json").read_text())
    assert len(content["alpha"]) == 3
    assert len(content["beta"]) == 10
    assert min(content["beta"]) >= 0, "BLIS refuses coefficients below zero"
    assert content["projection"]["mean_error"] == projection.mean_error
    assert 0 < projection.mean_error < 0.1
    device = json.loads((tmp_path / "hardware_config.json").read_text())["H200"]
    assert device["MemoryGiB"] == 141
    assert device["BwPeakTBs"] > 0
    flags = command(model, tmp_path, "H200")
    assert flags.startswith(f"--latency-model trained-physics --hardware-config {tmp_path}/hardware_config.json")
    assert "--tp 1 --alpha-coeffs 0,0,0 --beta-coeffs" in flags


def test_all_reduces_get_a_coefficient(ranks: SavedModel, tmp_path: Path) -> None:
    _, projection = write_blis(ranks, tmp_path, LIMITS, "H200")
    assert projection.mean_error < 0.1
    assert "--tp 2 " in command(ranks, tmp_path, "H200")


def test_experts_are_projected_too(mixed: SavedModel, tmp_path: Path) -> None:
    _, projection = write_blis(mixed, tmp_path, LIMITS, "H200")
    assert projection.mean_error < 0.2


def test_a_quantized_model_is_refused(model: SavedModel, tmp_path: Path) -> None:
    narrow = laws.linear(512, 768)
    narrow = replace(narrow, operands=tuple(replace(each, dtype="f8e4m3") for each in narrow.operands))
    with pytest.raises(PredictError, match="weights or activations are f8e4m3; BLIS takes models in bf16 or f16"):
        write_blis(replace(model, operations=(*model.operations, narrow)), tmp_path, LIMITS, "H200")
