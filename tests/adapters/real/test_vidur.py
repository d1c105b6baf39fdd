"""Both lineages of Vidur: the package, and a checkout of microsoft/vidur that VIDUR_SOURCE names."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dooly.adapters.grid import Limits
from dooly.adapters.vidur.slots import Slots
from dooly.adapters.vidur.tables import write_tables
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
@pytest.mark.parametrize("kind", ["model", "mixed", "ranks"])
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


@pytest.mark.skipif(not SOURCE, reason="VIDUR_SOURCE is not set; the package takes no files")
@pytest.mark.parametrize(
    ("kind", "tables", "stages"), [("model", "model", 1), ("ranks", "ranks", 1), ("model", "first", 2)]
)
def test_its_own_predictor_learns_from_the_tables(kind: str, tables: str, stages: int, tmp_path: Path, request) -> None:
    model: SavedModel = request.getfixturevalue(kind)
    model.save(tmp_path / "steps.json")
    tabled: SavedModel = request.getfixturevalue(tables)
    paths, _ = write_tables(tabled, tmp_path, Limits(tokens=512, requests=16, context=1024), block_size=16)
    option = "--linear_regression_execution_time_predictor_config"
    names = {"mlp": "compute", "attention": "attention", "all_reduce": "all_reduce", "send_recv": "send_recv"}
    files = [f"{option}_{names[path.stem]}_input_file={path}" for path in paths]
    sizes = {"prediction_max_prefill_chunk_size": 512, "prediction_max_tokens_per_request": 1024, "k_fold_cv_splits": 2}
    sizes |= {"nccl_cpu_launch_overhead_ms": 0}  # what it adds to each all-reduce otherwise
    flags = [*files, *(f"{option}_{name}={value}" for name, value in sizes.items())]
    flags += ["--execution_time_predictor_config_type=linear_regression"]
    flags += [f"--replica_config_num_pipeline_stages={stages}"]
    paths = os.pathsep.join([SOURCE, str(ROOT)])
    environment = os.environ | {"PYTHONPATH": paths, "WANDB_MODE": "disabled", "MPLBACKEND": "agg"}
    command = [sys.executable, "-m", "dooly.adapters.vidur", "steps.json", *SCHEDULER, *SYNTHETIC, *flags]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    (metrics,) = tmp_path.glob("simulator_output/*/request_metrics.csv")
    with metrics.open() as file:
        first = [float(row["prefill_e2e_time"]) for row in csv.DictReader(file)]
    assert len(first) == 20
    slots = Slots(model, cpu_fields=True)
    chunks = [slots.fields(((256, 0),)), slots.fields(((44, 256),))]
    in_layers = sum(layers * (sum(each) + each[12]) for layers, each in ((step[0], step[1:14]) for step in chunks))
    sent = sum(
        row.total_us * 1e-3
        for tokens in (256, 44)
        for row in tabled.steps.breakdown(Batch.of((tokens, 0))).rows
        if row.name.startswith("send_")
    )
    assert (sent > 0) == (stages > 1)
    assert min(first) * 1e3 == pytest.approx(in_layers + sent, rel=0.3), "as far as a regression follows"
