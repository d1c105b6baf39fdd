"""Without a GPU: step times of an H200 from what ships with dooly, in a process that stands in for that platform."""

import json
import subprocess
import sys
from functools import cache
from typing import Any

import pytest

from dooly.cli import main
from dooly.database import Database
from dooly.simulate import load_run

SCRIPT = """
import contextlib, io, json, sys
from dooly.cli import main
from dooly.workspace.lowering import lower
from dooly.database.exchange import read_parquet, shipped_files

assert main(["predict", "llama-3.1-8b", "--platform", "h200", "--backend", "TRITON_ATTN", "--db", sys.argv[1],
             "--batch", "1:1024x32", "--json"]) == 0
out = io.StringIO()
with contextlib.redirect_stdout(out):
    assert main(["predict", "qwen3-32b", "--tp", "2", "--platform", "h200", "--backend", "FLASH_ATTN",
                 "--db", sys.argv[1], "--batch", "1:1024x32", "--json"]) == 0
print("found", json.dumps(json.loads(out.getvalue())["rows"]))
records = [record for path in shipped_files() for record in read_parquet(path)]
records = [record for record in records if record.environment.get("platform") == "h200"]
measured = {record.operation.signature for record in records if record.measurement.samples.values_us}
for model in ("llama-3.1-8b", "qwen3-8b", "gemma-2-9b"):
    work = [o for o in lower([model], backend="FLASH_ATTN", platform="h200").operations if o.attr("ranks") != 1]
    print("found", model, sum(o.signature in measured for o in work), len(work))
"""


@cache
def answers(folder: str) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, tuple[int, int]], str]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, f"{folder}/none.sqlite"], capture_output=True, text=True, check=True
    )
    document, ranks, *found = done.stdout.split("found ")
    shares = {model: (int(have), int(all_)) for model, have, all_ in (line.split() for line in found)}
    return json.loads(document), json.loads(ranks), shares, done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return str(tmp_path_factory.mktemp("shipped"))


@pytest.mark.engine
def test_a_step_is_of_the_stored_gpu_and_its_host(folder):
    document, _, _, talk = answers(folder)
    assert not document["device_only"]
    assert "NVIDIA H200 as stored: vllm 0.26.0" in talk
    assert {row["kind"] for row in document["rows"]} == {"gemm", "attention", "region", "host"}
    cost = document["cost"]
    assert min(cost["host_before_us"], cost["host_after_us"], cost["launch_us"]) > 100
    assert cost["total_us"] == pytest.approx(sum(row["total_us"] for row in document["rows"]), rel=1e-12)
    assert 3_400 < cost["device_us"] < 12_000  # its weights alone take 16.1 GB / 4.8 TB/s = 3.3 ms


@pytest.mark.engine
def test_a_step_of_two_ranks_has_their_collectives(folder):
    _, ranks, _, talk = answers(folder)
    collectives = [row for row in ranks if row["kind"] == "collective"]
    counts = {row["name"].rpartition("_")[0]: row["count"] for row in collectives}
    assert counts == {"all_reduce": 129, "all_gather": 1}
    assert all(1.0 < row["each_us"] < 100.0 and not row["extrapolated"] for row in collectives)
    assert "has no points here" not in talk  # all operations of this model were measured for two ranks


@pytest.mark.engine
def test_stored_operations_of_one_release_are_those_that_another_captures(folder):
    _, _, shares, _ = answers(folder)
    assert shares == {"llama-3.1-8b": (12, 12), "qwen3-8b": (12, 12), "gemma-2-9b": (13, 13)}


def test_what_ships_is_known_beside_a_database_that_holds_other_things(tmp_path, capsys):
    Database(tmp_path / "empty.sqlite").close()
    answers = [
        (
            main(["formulas", "linear", "--platform", "h100", "--json", "--db", str(tmp_path / name)]),
            capsys.readouterr(),
        )
        for name in ("empty.sqlite", "none.sqlite")
    ]
    assert [status for status, _ in answers] == [0, 0]
    assert len(json.loads(answers[0][1].out)) > 20
    assert answers[0][1].out == answers[1][1].out


def test_a_formula_is_that_of_how_the_engine_runs_it_though_other_ways_ship(tmp_path, capsys):
    assert main(["formulas", "all_reduce_53eab3f8", "--platform", "h200", "--db", str(tmp_path / "none.sqlite")]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("all_reduce_53eab3f8: t_us = 3.")  # 50 us without graphs


@pytest.mark.engine
def test_the_engines_own_scheduler_serves_a_stored_gpu_under_the_settings_of_vllm_serve(tmp_path):
    """In processes of their own: the engine decides once per process what it runs on."""
    steps: list[int] = []
    for name, extra in (("engine.json", ["--no-fast"]), ("compact.json", [])):
        command = ["simulate", "llama-3.1-8b", "--gpu", "H200", "--requests", "30", "--rate", "8", *extra]
        command += ["--db", str(tmp_path / "none.sqlite"), "-o", str(tmp_path / name)]
        subprocess.run([sys.executable, "-m", "dooly.cli", *command], check=True, capture_output=True)
        run = load_run(tmp_path / name)
        steps.append(len(run.steps))
        settings = run.settings
        assert (settings.max_num_seqs, settings.max_num_batched_tokens, settings.max_model_len) == (1024, 8192, 131072)
        assert (settings.prefix_caching, settings.async_scheduling, settings.block_size) == (True, True, 16)
        assert 55_000 < settings.blocks < 62_000
    assert steps[0] == steps[1]
