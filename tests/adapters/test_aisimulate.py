import hashlib
import json
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from dooly.adapters.aisimulate import write_pair
from dooly.adapters.grid import Limits
from dooly.batch import Batch
from dooly.errors import PredictError
from dooly.predict import SavedModel

LIMITS = Limits(tokens=256, requests=4, context=1024)
IDENTITY = (
    *("gemm_quant_mode", "moe_quant_mode", "fmha_quant_mode", "comm_quant_mode", "kv_cache_dtype"),
    *("tp", "pp", "dp", "moe_tp", "moe_ep", "cp"),
    *("moe_backend", "attention_backend", "enable_wideep", "enable_eplb"),
)
"""Columns that the reader of aiconfigurator-core 0.12.0 tells deployments apart by, in its order."""


def test_the_pair_belongs_together_and_holds_whole_steps(model: SavedModel, tmp_path: Path) -> None:
    (table, sidecar), outside = write_pair(model, tmp_path, LIMITS, "h200_sxm", "some/model")
    assert table == tmp_path / "data" / "h200_sxm" / "vllm" / "0.26.0" / "fpm_forward_perf.parquet"
    facts = json.loads(sidecar.read_text())
    rows = pl.read_parquet(table)
    assert facts["parquet_sha256"] == hashlib.sha256(table.read_bytes()).hexdigest()
    assert (facts["schema_name"], facts["schema_version"]) == ("aic_fpm_forward_perf", 6)
    assert facts["row_count"] == rows.height == outside.steps
    assert facts["producer"].startswith("dooly: predicted")
    assert rows.select(IDENTITY).unique().height == 1
    assert rows["model_path"].unique().to_list() == ["some/model"]
    assert rows.select("workload_kind", "batch_size", "total_prefill_tokens", "total_kv_read_tokens").is_unique().all()
    step = {"workload_kind": "prefill", "batch_size": 2, "total_prefill_tokens": 256, "total_kv_read_tokens": 1024}
    (row,) = rows.filter(**step).to_dicts()
    assert row["latency_ms"] == pytest.approx(model.steps.step_time(Batch.alike([(128, 512, 2)])).total_us / 1e3)
    decode = {"workload_kind": "decode", "batch_size": 4, "total_prefill_tokens": 0, "total_kv_read_tokens": 4096}
    (row,) = rows.filter(**decode).to_dicts()
    assert row["latency_ms"] == pytest.approx(model.steps.step_time(Batch.alike([(1, 1023, 4)])).total_us / 1e3)
    assert rows.filter(workload_kind="prefill")["total_prefill_tokens"].max() == LIMITS.tokens


def test_what_its_reader_has_no_name_for_is_refused(model: SavedModel, tmp_path: Path) -> None:
    other = replace(model, settings={**model.settings, "engine": "sglang 0.5"})
    with pytest.raises(PredictError, match="expected vllm"):
        write_pair(other, tmp_path, LIMITS, "h200_sxm", "some/model")
