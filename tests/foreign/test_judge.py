"""The pages that judge predictions from others' measurements, on tables and points made up for the purpose."""

import json
import sys
from types import ModuleType, SimpleNamespace

import polars as pl

from benchmarks import inferencex
from benchmarks.inferencex import expressed, page, sample
from benchmarks.side_by_side import aiconfigurator_rows
from dooly.database import Database, Known
from dooly.database.exchange import shipped_files
from dooly.evaluate.foreign import class_rows
from dooly.foreign.aiconfigurator import DISTRIBUTION
from dooly.workspace.foreign import add_foreign, expected_error
from dooly.workspace.shipped import measured_models
from scripts.foreign_page import expected
from tests.foreign import published

ROW = {
    "id": "one",
    "backend": "vllm",
    "model_path": "Qwen/Qwen3-32B",
    "system": "h100_sxm",
    "precision": None,
    "mode": "agg",
    "isl": 1024,
    "osl": 101,
    "batch_size": 8,
    "tp_size": 2,
    "pp_size": 1,
    "attention_dp_size": None,
    "moe_ep_size": 1,
    "silicon_ttft_ms": 100.0,
    "silicon_tpot_ms": 10.0,
}


def test_points_of_other_engines_models_and_ways_to_split_them_are_not_predicted():
    assert expressed(ROW)
    for name, value in (
        ("backend", "sglang"),
        ("mode", "disagg"),
        ("model_path", "moonshotai/Kimi-K2.5"),
        ("precision", "fp4"),
        ("system", "tpu"),
        ("moe_ep_size", 2),
        ("attention_dp_size", 4),
    ):
        assert not expressed({**ROW, name: value}), name


def test_a_page_counts_points_and_says_errors_beside_those_of_the_other_program():
    rows = pl.DataFrame([ROW, {**ROW, "id": "two", "backend": "sglang"}, {**ROW, "id": "three"}])
    done = [{"id": "one", "ttft_ms": 150.0, "tpot_ms": 9.0, "sources": []}, {"id": "three", "error": "m: no formula"}]
    estimates = pl.DataFrame([{"id": "one", "ttft_ms": 110.0, "tpot_ms": 12.0}])
    text = page(rows, done, estimates)
    assert "1 of 3 points are predicted" in text
    assert "| Qwen/Qwen3-32B | 3 | 2 | 1 |" in text
    # took 100 + 100 * 10 ms, predicted 150 + 100 * 9 ms
    assert "| all | 1 | 50 | 50 | +50 | 10 | 10 | -10 | 5 | 5 | +5 | 10 | 20 |" in text
    assert "| AIConfigurator | 1 | 10 | 10 | +10 | 20 | 20 | +20 |" in text
    assert "| no formula | 1 |" in text


def test_points_come_out_of_the_wheel_and_rows_that_are_done_are_left_alone(tmp_path, monkeypatch):
    content = pl.DataFrame([ROW]).write_csv().encode()
    wheel = published.wheel(tmp_path / "copy.whl", {f"{published.MODULE}/systems/silicon_sample.csv": content})
    (row,) = sample(wheel).iter_rows(named=True)
    assert row == ROW
    predictions, written = tmp_path / "done.jsonl", tmp_path / "page.md"
    predictions.write_text(json.dumps({"id": "one", "ttft_ms": 100.0, "tpot_ms": 10.0, "sources": []}) + "\n")
    monkeypatch.setattr(inferencex, "PAGE", written)
    assert inferencex.main([str(wheel), "--db", "none.sqlite", "--predictions", str(predictions)]) == 0
    assert "| all | 1 | 0 | 0 | +0 |" in written.read_text()
    assert inferencex.main([str(tmp_path / "no.whl"), "--db", "x", "--predictions", str(predictions)]) == 2


def test_the_other_program_is_asked_for_each_row_that_it_has(tmp_path, monkeypatch, capsys):
    def estimate(model, system, *, batch_size, **options):
        if batch_size == 9:
            raise ValueError("out of memory")
        assert (model, system, options["tp_size"]) == ("Qwen/Qwen3-32B", "h100_sxm", 2)
        return SimpleNamespace(ttft=1.5, tpot=2.5)

    api = ModuleType("aiconfigurator.cli.api")
    api.cli_estimate = estimate
    monkeypatch.setitem(sys.modules, "aiconfigurator.cli.api", api)
    content = pl.DataFrame([ROW, {**ROW, "id": "two", "batch_size": 9}, {**ROW, "id": "three", "backend": "trtllm"}])
    files = {aiconfigurator_rows.SAMPLE: content.write_csv().encode()}
    path, found = published.wheel(tmp_path / "copy.whl", files), tmp_path / "estimates.csv"
    assert aiconfigurator_rows.main([str(path), "-o", str(found)]) == 0
    assert found.read_text().splitlines() == ["id,ttft_ms,tpot_ms", "one,1.5,2.5"]
    assert "two: out of memory" in capsys.readouterr().err


def test_errors_at_points_that_dooly_measured_are_told_by_class(tmp_path):
    files = published.tables("h200_sxm")
    database = Database(tmp_path / "own.db")
    add_foreign(database, "aiconfigurator", published.wheel(tmp_path / "copy.whl", files), None, lambda _: None)
    known = Known(database, shipped_files())
    products = [each for each in measured_models().operations if each.target == "linear"][:3]
    norms = [each for each in measured_models().operations if each.target == "region"][:3]
    rows = {row.kind: row for row in class_rows(known, [*products, *norms], "h200", DISTRIBUTION)}
    assert rows["linear"].operations == 3
    assert rows["linear"].points > 20
    assert 0 < rows["region"].median <= rows["region"].p90


def test_the_error_to_expect_is_told_of_a_known_source_only():
    rows = [{"kind": "decode", "error_percent": error, "error_p90_percent": 2 * error} for error in (4.0, 6.0, 100.0)]
    assert dict(expected(rows, "error")) == {"decode": [6.0, 12.0]}
    assert expected_error("nobody's") == ""
    assert expected_error("", "NVIDIA B200") == ""
