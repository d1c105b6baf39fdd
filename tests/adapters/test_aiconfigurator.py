import json
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from dooly.adapters.aiconfigurator import write_systems
from dooly.adapters.grid import Limits
from dooly.batch import Batch
from dooly.errors import PredictError
from dooly.predict import SavedModel

LIMITS = Limits(tokens=256, requests=8, context=1024)
FAMILY = Path("data/h200_sxm")


def table(root: Path, family: str, name: str) -> pl.DataFrame:
    return pl.read_parquet(root / FAMILY / family / "vllm" / "0.26.0" / f"{name}.parquet")


def each_ms(model: SavedModel, batch: Batch, module: str) -> float:
    names = [op.name for op in model.operations if any(use.path.endswith(module) for use in op.uses)]
    (row,) = [row for row in model.steps.breakdown(batch).rows if row.name in names]
    return row.each_us / 1e3


def test_gemms_stand_by_their_sizes(model: SavedModel, tmp_path: Path) -> None:
    paths, _ = write_systems(model, tmp_path, LIMITS, "h200_sxm")
    assert {path.stem for path in paths} == {"gemm_perf", "context_attention_perf", "generation_attention_perf"}
    gemms = table(tmp_path, "gemm", "gemm_perf")
    (row,) = gemms.filter(m=64, n=768, k=512).to_dicts()
    assert row["latency"] == pytest.approx(each_ms(model, Batch.of((64, 0)), "qkv_proj"))
    assert (row["framework"], row["version"], row["gemm_dtype"]) == ("VLLM", "0.26.0", "bfloat16")
    assert gemms.filter(n=32000)["m"].max() == 8, "rows of logits are as many as requests"
    meta = json.loads((tmp_path / FAMILY / "gemm" / "vllm" / "0.26.0" / "collection_meta.yaml").read_text())
    assert meta["tables"] == {"gemm_perf": {"status": "complete"}}


def test_attention_stands_by_prompts_and_by_history(model: SavedModel, tmp_path: Path) -> None:
    write_systems(model, tmp_path, LIMITS, "h200_sxm")
    context = table(tmp_path, "attention", "context_attention_perf")
    (row,) = context.filter(batch_size=2, isl=128).to_dicts()
    assert row["latency"] == pytest.approx(each_ms(model, Batch.of((128, 0), (128, 0)), "self_attn.attn"))
    assert (row["num_heads"], row["num_key_value_heads"], row["head_dim"], row["step"]) == (32, 8, 128, 0)
    decode = table(tmp_path, "attention", "generation_attention_perf")
    (row,) = decode.filter(batch_size=4, step=512).to_dicts()
    assert row["latency"] == pytest.approx(each_ms(model, Batch.of(*[(1, 512)] * 4), "self_attn.attn"))
    assert row["isl"] == 1


def test_experts_have_a_table(mixed: SavedModel, tmp_path: Path) -> None:
    write_systems(mixed, tmp_path, LIMITS, "h200_sxm")
    (row,) = table(tmp_path, "moe", "moe_perf").filter(num_tokens=64).to_dicts()
    assert row["latency"] == pytest.approx(each_ms(mixed, Batch.of((64, 0)), "experts"))
    assert (row["num_experts"], row["topk"], row["moe_tp_size"]) == (8, 2, 1)


def test_all_reduces_count_elements(ranks: SavedModel, tmp_path: Path) -> None:
    write_systems(ranks, tmp_path, LIMITS, "h200_sxm")
    (row,) = table(tmp_path, "comm", "custom_allreduce_perf").filter(message_size=64 * 512).to_dicts()
    assert row["latency"] == pytest.approx(each_ms(ranks, Batch.of((64, 0)), "embed_tokens"))
    assert row["num_gpus"] == 2


def test_a_second_model_adds_its_rows(model: SavedModel, mixed: SavedModel, tmp_path: Path) -> None:
    write_systems(model, tmp_path, LIMITS, "h200_sxm")
    first = len(table(tmp_path, "gemm", "gemm_perf"))
    write_systems(mixed, tmp_path, LIMITS, "h200_sxm")
    both = table(tmp_path, "gemm", "gemm_perf")
    assert len(both) == first + 9, "the router of the mixture, 1 to 256 rows"
    assert both.select("m", "n", "k").is_unique().all()


def test_what_it_has_no_tables_for_is_refused(model: SavedModel, tmp_path: Path) -> None:
    other = replace(model, settings={**model.settings, "engine": "transformers 5.0"})
    with pytest.raises(PredictError, match=r"as transformers 5\.0 runs it; .* for vllm"):
        write_systems(other, tmp_path, LIMITS, "h200_sxm")
