"""Latency percentiles and throughput, against figures worked out by hand."""

import json
from pathlib import Path

import polars as pl
import pytest

from dooly.batch import Batch
from dooly.engine.settings import EngineSettings
from dooly.simulate.metrics import request_frame, summarize, write_requests
from dooly.simulate.records import RequestRecord, Run, StepRecord


def run_of(*requests: RequestRecord) -> Run:
    steps = (
        StepRecord(0.0, Batch.of((10, 0), (4, 0)), 0, 500, 0, 500),
        StepRecord(0.5, Batch.of((1, 10)), 0, 500, 0, 500),
    )
    return Run("simulated", "m", "t", EngineSettings(), 1, requests, steps, 0.25)


RUN = run_of(
    RequestRecord(0.0, 0.5, 1.5, 10, 5, 0, 1),
    RequestRecord(1.0, 1.1, 1.1, 4, 1, 2, 0),
    RequestRecord(2.0, 2.9, 4.0, 4, 2, 0, 1),
)


def test_latencies_of_requests() -> None:
    frame = request_frame(RUN)
    assert frame["ttft_ms"].to_list() == pytest.approx([500, 100, 900])
    assert frame["tpot_ms"].to_list() == [pytest.approx(250), None, pytest.approx(1100)]
    assert frame["e2e_ms"].to_list() == pytest.approx([1500, 100, 2000])


def test_summary() -> None:
    summary = summarize(RUN)
    assert summary.ttft.mean_ms == pytest.approx(500)
    assert summary.ttft.p50_ms == pytest.approx(500)
    assert summary.ttft.p90_ms == pytest.approx(820)
    assert summary.ttft.p99_ms == pytest.approx(892)
    assert summary.tpot is not None
    assert summary.tpot.p50_ms == pytest.approx(675)
    assert summary.duration_s == 4.0
    assert summary.requests_per_s == pytest.approx(0.75)
    assert summary.output_tokens_per_s == pytest.approx(2.0)
    assert summary.mean_running == 1.5
    assert (summary.preemptions, summary.cached_tokens, summary.clipped, summary.steps) == (2, 2, 1, 2)
    assert json.loads(json.dumps(summary.json()))["e2e"]["p50_ms"] == pytest.approx(1500)


def test_no_tpot_without_second_tokens() -> None:
    summary = summarize(run_of(RequestRecord(0.0, 0.5, 0.5, 10, 1, 0, 0)))
    assert summary.tpot is None
    assert summary.json()["tpot"] is None


def test_requests_as_parquet(tmp_path: Path) -> None:
    write_requests(RUN, tmp_path / "requests.parquet")
    assert pl.read_parquet(tmp_path / "requests.parquet").equals(request_frame(RUN))
