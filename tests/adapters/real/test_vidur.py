"""Both lineages of Vidur: the package, and a checkout of microsoft/vidur that VIDUR_SOURCE names."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dooly.batch import Batch
from dooly.predict import SavedModel

pytest.importorskip("vidur", reason="make test-adapters installs Vidur")

ROOT = Path(__file__).resolve().parents[3]
SOURCE = os.environ.get("VIDUR_SOURCE", "")
LINEAGES = [
    pytest.param("", id="package"),
    pytest.param(SOURCE, id="microsoft", marks=pytest.mark.skipif(not SOURCE, reason="VIDUR_SOURCE is not set")),
]
SCHEDULER = (
    "--replica_scheduler_config_type=sarathi",
    "--sarathi_scheduler_config_chunk_size=256",
    "--sarathi_scheduler_config_batch_size_cap=16",
)
SYNTHETIC = (
    "--synthetic_request_generator_config_num_requests=20",
    "--request_generator_config_type=synthetic",
    "--length_generator_config_type=fixed",
    "--fixed_request_length_generator_config_prefill_tokens=300",
    "--fixed_request_length_generator_config_decode_tokens=20",
    "--interval_generator_config_type=poisson",
    "--poisson_request_interval_generator_config_qps=40",
)


def run(folder: Path, source: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    paths = [source, str(ROOT)] if source else [str(ROOT)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "WANDB_MODE": "disabled", "MPLBACKEND": "agg"}
    command = [sys.executable, str(ROOT / "benchmarks" / "run_vidur.py"), "report.json", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, timeout=300)


@pytest.mark.parametrize("source", LINEAGES)
@pytest.mark.parametrize("kind", ["model", "mixed"])
def test_vidur_sums_to_the_step_time_batch_by_batch(source: str, kind: str, tmp_path: Path, request) -> None:
    model: SavedModel = request.getfixturevalue(kind)
    model.save(tmp_path / "steps.json")
    done = run(tmp_path, source, "steps.json", *SCHEDULER, *SYNTHETIC)
    assert done.returncode == 0, done.stderr[-2000:]
    steps = json.loads((tmp_path / "report.json").read_text())["steps"]
    assert len(steps) > 20
    for requests, seconds in steps:
        expected = model.steps.step_time(Batch.of(*map(tuple, requests))).total_us * 1e-6
        assert seconds == pytest.approx(expected, rel=1e-9)
    assert any(len(requests) > 1 for requests, _ in steps)
    assert any(q == 1 and c > 300 for requests, _ in steps for q, c in requests)


@pytest.mark.parametrize("source", LINEAGES)
def test_ranks_that_were_not_measured_are_refused_in_one_line(source: str, model: SavedModel, tmp_path: Path) -> None:
    model.save(tmp_path / "steps.json")
    done = run(tmp_path, source, "steps.json", *SCHEDULER, *SYNTHETIC, "--replica_config_tensor_parallel_size=2")
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("dooly: error:")]
    assert "Vidur asks for small on 2 tensor-parallel ranks" in line
    assert "Traceback" not in done.stderr
