"""Recorded engine steps beside predictions, without an engine."""

import json

import pytest

from dooly.cli import main
from dooly.engine.settings import EngineSettings
from dooly.errors import PredictError
from dooly.evaluate.kernel_report import kernel_classes
from dooly.evaluate.replay import recorded_platform
from dooly.evaluate.steps import StepRecording, load_steps, save_steps
from dooly.workspace.shipped import DATA

LLAMA = DATA / "evaluation" / "h200-steps-llama-3.1-8b.json"


def short(tmp_path, **changes: str) -> str:
    """A few of the recorded steps, in a file of their own."""
    recorded = load_steps(LLAMA)
    steps = tuple(step for step in recorded.steps if step.label in ("decode-8", "prefill-2048"))
    facts = {**dict(recorded.facts), **changes}
    changed = StepRecording("llama-3.1-8b", 1, "FLASH_ATTN", EngineSettings(block_size=16), tuple(facts.items()), steps)
    save_steps(changed, tmp_path / "short.json")
    return str(tmp_path / "short.json")


def test_every_kernel_has_an_operation_and_sums_are_near(tmp_path, capsys):
    assert main(["kernels", short(tmp_path), "--db", str(tmp_path / "none.sqlite"), "--json"]) == 0
    (document,) = json.loads(capsys.readouterr().out)
    assert {row["label"] for row in document["profiled"]} == {"decode-8", "prefill-2048"}
    for row in document["profiled"]:
        assert row["unattributed_percent"] < 1.0
        assert sum(role["measured_us"] for role in row["roles"]) == pytest.approx(row["kernels_us"])
        assert sum(role["predicted_us"] for role in row["roles"]) == pytest.approx(row["predicted_us"])
        assert abs(row["error_percent"]) < 30.0
    gemm = next(row for row in document["by_role"] if row["role"] == "gemm")
    assert gemm["operations"] == 4 * 32 + 1
    assert {row["kind"] for row in document["by_class"]} == {"decode", "prefill"}
    decode = next(row for row in document["shapes"] if row["label"] == "decode-8")
    assert decode["steps"] == 6
    assert decode["predicted_us"] == pytest.approx(decode["measured_us"], rel=0.3)


def test_people_get_tables(tmp_path, capsys):
    assert main(["kernels", short(tmp_path), "--db", str(tmp_path / "none.sqlite")]) == 0
    printed = capsys.readouterr().out
    assert "llama-3.1-8b, NVIDIA H200, vllm 0.26.0, FLASH_ATTN" in printed
    assert "unattributed (%)" in printed


def test_sums_of_operations_are_judged_by_class_of_step():
    rows = [
        {"label": label, "kind": kind, "error_percent": error}
        for label, kind, error in (
            ("one", "decode", -1.0),
            ("two", "decode", 3.0),
            ("three", "decode", -8.0),
            ("four", "mixed", 5.0),
            ("five", "prefill", None),
        )
    ]
    decode, mixed = kernel_classes("title", rows).rows
    assert (decode["kind"], decode["steps"], decode["median_percent"], decode["p90_percent"]) == (
        "decode",
        3,
        3.0,
        8.0,
    )
    assert (decode["bias_percent"], decode["worst_percent"], decode["worst_step"]) == (-1.0, -8.0, "three")
    assert (mixed["kind"], mixed["steps"], mixed["worst_percent"]) == ("mixed", 1, 5.0)


def test_without_formulas_kernels_are_still_attributed(tmp_path, capsys):
    recorded = load_steps(LLAMA)
    profiled = tuple(step for step in recorded.profiled if step.label == "decode-8")
    facts = (("device", "NVIDIA H100 80GB HBM3"),)
    unmeasured = StepRecording("llama-3.1-70b", 4, "FLASH_ATTN", EngineSettings(), facts, profiled)  # four GPUs
    save_steps(unmeasured, tmp_path / "steps.json")
    assert main(["kernels", str(tmp_path / "steps.json"), "--db", str(tmp_path / "none.sqlite"), "--json"]) == 0
    captured = capsys.readouterr()
    assert "no predictions: " in captured.err
    (document,) = json.loads(captured.out)
    (row,) = document["profiled"]
    assert (row["predicted_us"], row["error_percent"], document["by_class"]) == (None, None, [])
    assert row["unattributed_percent"] < 1.0
    assert main(["kernels", str(tmp_path / "steps.json"), "--db", str(tmp_path / "none.sqlite")]) == 0
    assert "by what the kernels belong to" in capsys.readouterr().out


def test_a_gpu_that_is_not_known_is_one_clear_line(tmp_path, capsys):
    assert main(["kernels", short(tmp_path, device="NVIDIA V100")]) == 2
    assert "steps recorded on 'NVIDIA V100'; expected one of h100, h200" in capsys.readouterr().err
    nothing = StepRecording("m", 1, "FLASH_ATTN", EngineSettings(), (), ())
    with pytest.raises(PredictError, match="steps recorded on ''"):
        recorded_platform(nothing)


def test_another_file_is_one_clear_line(tmp_path, capsys):
    (tmp_path / "run.json").write_text("{}")
    assert main(["kernels", str(tmp_path / "run.json")]) == 2
    assert "not recorded steps" in capsys.readouterr().err
