"""Reports that compare with other programs, on tables made up for the purpose."""

from itertools import product
from pathlib import Path

import polars as pl
import pytest

from benchmarks.aiconfigurator_tables import BACKEND, FLASH, TRITON_EXPERTS, main
from benchmarks.side_by_side.aiconfigurator_worker import step_ms
from benchmarks.step_errors import main as compare
from dooly.workspace.shipped import DATA


def write(core: Path, platform: str, family: str, table: str, rows: list[dict[str, object]]) -> None:
    path = core / "systems" / "data" / f"{platform}_sxm" / family / BACKEND / f"{table}_perf.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(rows).write_parquet(path)


@pytest.fixture
def core(tmp_path: Path) -> Path:
    """Tables in which a product of 4096 x 4096 takes a tenth of a microsecond a row, and nothing else matches."""
    folder = tmp_path / "aiconfigurator_core"
    heads = {"num_heads": 1, "num_key_value_heads": 1, "head_dim": 1, "window_size": 0, "batch_size": 1}
    attention = {**heads, "kv_cache_dtype": "bfloat16", "kernel_source": FLASH, "isl": 1, "step": 1, "latency": 1.0}
    moe = {"kernel_source": TRITON_EXPERTS, "distribution": "balanced", "moe_dtype": "bfloat16", "moe_ep_size": 1}
    moe |= {"hidden_size": 1, "inter_size": 1, "moe_tp_size": 1, "topk": 1, "num_experts": 1, "num_tokens": 1}
    for path in DATA.glob("*.parquet"):
        sizes = product(("bfloat16", "fp8"), (1, 512, 8192))
        gemm = [{"gemm_dtype": d, "m": m, "n": 4096, "k": 4096, "latency": m / 1e4} for d, m in sizes]
        write(folder, path.stem, "gemm", "gemm", gemm)
        write(folder, path.stem, "attention", "context_attention", [attention])
        write(folder, path.stem, "attention", "generation_attention", [attention])
        write(folder, path.stem, "moe", "moe", [{**moe, "latency": 1.0}])
    return folder


def test_only_ratios_of_equal_work_are_written(core: Path, tmp_path: Path):
    page = tmp_path / "page.md"
    assert main([str(core), "-o", str(page)]) == 0
    text = page.read_text()
    assert "| GEMM, below 64 rows |" in text
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| GEMM, 512 rows and more |")]
    assert len(rows) == len(list(DATA.glob("*.parquet")))
    assert all(int(points) >= int(exact) > 0 for _, points, exact, *_ in rows)
    assert all(0.1 < float(median) < 2.0 for *_, median, _, _, _ in rows)
    assert "attention," not in text.partition("## ")[2]


def test_a_folder_without_tables_is_one_clear_line(tmp_path: Path):
    with pytest.raises(SystemExit, match="no systems/data there; expected an installed aiconfigurator_core"):
        main([str(tmp_path)])


class Means:
    """An engine that answers with what it was asked."""

    def predict_decode_latency(self, count: int, context: int, osl: int) -> float:
        return 1000 * count + context + osl

    def predict_prefill_latency(self, count: int, length: int, prefix: int) -> float:
        return 1000 * count + length + prefix / 1000

    def mixed_step_breakdown(
        self, tokens: int, decodes: int, length: int, osl: int, prefix: int = 0
    ) -> tuple[float, ...]:
        return 0.0, 1e6 * tokens + 1e5 * decodes, length + prefix / 1000, length / 1e4


def test_a_program_that_knows_means_is_asked_for_them():
    assert step_ms(Means(), [[1, 100], [1, 300]]) == 2000 + 200 + 2
    assert step_ms(Means(), [[512, 0], [256, 128]]) == pytest.approx(2000 + 384 + 64 + 0.064)
    mixed = step_ms(Means(), [[1, 300], [1, 100], [512, 8]])
    assert mixed == pytest.approx(512e6 + 2e5 + 520 + 0.008 + 200 / 1e4)


def test_steps_are_compared_class_by_class(tmp_path: Path):
    page = tmp_path / "page.md"
    recorded = DATA / "evaluation" / "h200-steps-llama-3.1-8b.json"
    assert compare([str(recorded), "--db", str(tmp_path / "none.sqlite"), "-o", str(page)]) == 0
    rows = [line.strip("| ").split(" | ") for line in page.read_text().splitlines() if " | dooly | " in line]
    assert [row[0] for row in rows] == ["decode", "prefill", "mixed"]
    assert all(0.0 < float(row[3]) <= float(row[4]) < 100.0 for row in rows)


def test_a_recording_that_is_none_is_one_clear_line(tmp_path: Path):
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(SystemExit, match="not recorded steps"):
        compare([str(tmp_path / "other.json")])
