"""The tables of predicted beside measured, of one recording cut short."""

from dataclasses import replace

from dooly.evaluate.recording import load_recording, save_recording
from dooly.workspace.shipped import DATA
from scripts import validation_page


def test_each_table_has_a_row_for_each_trace(tmp_path, monkeypatch):
    recording = load_recording(DATA / "recorded" / "h100-qwen2.5-7b.json.gz")
    longest = [run for run in recording.runs if run.trace == "arxiv:8@1.5"]
    (tmp_path / "recorded").mkdir()
    save_recording(replace(recording, runs=tuple(longest)), tmp_path / "recorded" / "some.json.gz")
    monkeypatch.setattr(validation_page, "DATA", tmp_path)
    monkeypatch.setattr(validation_page, "DATABASE", str(tmp_path / "none.sqlite"))
    monkeypatch.setattr(validation_page, "PAGE", tmp_path / "page.md")
    assert validation_page.main() == 0
    page = (tmp_path / "page.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| H100")]
    recorded = [line for line in page.splitlines() if line.startswith("| some")]
    assert recorded == ["| some | H100 | qwen2.5-7b | FLASH_ATTN | vllm 0.26.0 | 2026-11-28 |"]
    assert [row[:4] for row in rows] == [["H100", "qwen2.5-7b", "FLASH_ATTN", "long"]] * 4
    latencies, percentiles, steps, synchronous = rows
    assert len(latencies) == len(percentiles) == len(steps) == 10
    assert all(0.0 < float(value) < 30.0 for value in latencies[4:])
    assert all(value[0] in "+-" for value in percentiles[4:])
    assert steps[6:8] == ["-", "-"]  # its prompts are too long for graphs in pieces
    assert len(synchronous) == 9
