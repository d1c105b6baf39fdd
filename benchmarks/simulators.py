"""The same model, device and trace in three simulators: ``python benchmarks/simulators.py STEPS.json... --trace FILE``.

Prints one Markdown table: dooly's own simulation (``--fast``), Vidur with dooly inside, and Vidur's stock predictor
trained on the tables that dooly exports; mean and 99th percentile of TTFT and TPOT, and wall time.  Of Vidur with dooly
it also prints how far the steps' times were from `step_time`, and what the adapter took beyond it.

``--vidur`` is the Python of an environment with Vidur in it (``make test-adapters`` builds one), ``--source`` a
checkout of microsoft/vidur that runs in place of the package; only that one takes tables from files.
"""
# ruff: noqa: T201 - a script prints

import argparse
import csv
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dooly.adapters.grid import Limits
from dooly.adapters.vidur.tables import write_tables
from dooly.batch import Batch
from dooly.engine.settings import EngineSettings
from dooly.predict import SavedModel
from dooly.simulate import Trace, read_trace, simulate_fast

ROOT = Path(__file__).resolve().parents[1]
TOKENS, REQUESTS, LENGTH, BLOCK = 2048, 128, 8192, 16
"""Most tokens and requests of a step, most tokens of a request, tokens of a KV cache block."""
LINEAR, FOREST = "linear_regression", "random_forrest"  # as Vidur spells it
STOCK = {LINEAR: (), FOREST: (("num_estimators", 250), ("max_depth", 16), ("min_samples_split", 2))}
"""Vidur's own predictors; of the forest one of its 27 settings: choosing between all takes 50 times as many trees."""


@dataclass(frozen=True)
class Served:
    """One row: milliseconds of each request, and seconds of the simulation itself."""

    simulator: str
    ttft_ms: list[float]
    tpot_ms: list[float]
    wall_s: float

    def __str__(self) -> str:
        ttft, tpot = (f"{np.mean(ms):.2f}, {np.percentile(ms, 99):.2f}" for ms in (self.ttft_ms, self.tpot_ms))
        return f"{self.simulator} | {ttft} | {tpot} | {self.wall_s:.1f}"


def in_dooly(model: SavedModel, trace: Trace) -> Served:
    """`dooly simulate --fast`, sequential scheduling."""
    settings = EngineSettings(REQUESTS, TOKENS, LENGTH, BLOCK)
    start = time.perf_counter()
    run = simulate_fast(model.name, trace, model.steps.step_time, settings, power=model.steps.power)
    wall = time.perf_counter() - start
    ttft = [1e3 * request.ttft_s for request in run.requests]
    tpot = [1e3 * request.tpot_s for request in run.requests if request.tpot_s is not None]
    return Served("`dooly simulate --fast`", ttft, tpot, wall)


class Vidur:
    """Runs of one Vidur in a folder of their own."""

    def __init__(self, python: str, source: str, folder: Path, trace: Trace) -> None:
        self._python, self._source, self._folder = python, source, folder
        self._trace = folder / "trace.csv"
        names = ("Date", "Time", "PromptTokenCount", "CompletionTokenCount")  # the package's; then the repository's
        names += ("arrived_at", "num_prefill_tokens", "num_decode_tokens")
        with self._trace.open("w") as file:
            writer = csv.writer(file)
            writer.writerow(names)
            for each in trace.requests:
                row = (each.arrival_s, each.prompt_tokens, each.output_tokens)
                writer.writerow(("day", *row, *row))

    def run(self, simulator: str, script: Iterable[str], steps: Path, *flags: str) -> tuple[Served, Path]:
        """One run; also the folder of its results."""
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        paths = [self._source] if self._source else []
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([*paths, str(ROOT)]),
            "WANDB_MODE": "disabled",
            "MPLBACKEND": "agg",
        }
        replay = "--trace_request_generator_config"
        scheduler = "--sarathi_scheduler_config"
        command = [
            self._python,
            *script,
            str(steps.resolve()),
            "--replica_scheduler_config_type=sarathi",
            f"{scheduler}_chunk_size={TOKENS}",
            f"{scheduler}_batch_size_cap={REQUESTS}",
            "--request_generator_config_type=trace_replay",
            f"{replay}_trace_file={self._trace}",
            f"{replay}_max_tokens={LENGTH}",
            *(f"{replay}_{each}_scale_factor=1" for each in ("prefill", "decode", "time")),
            *([] if self._source else [f"{replay}_date=day"]),
            *flags,
        ]
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
        wall = time.perf_counter() - start
        if done.returncode:
            raise SystemExit(f"{simulator}: {done.stderr[-3000:]}")
        (metrics,) = folder.glob("simulator_output/*/request_metrics.csv")
        with metrics.open() as file:
            rows = [{name: float(value or "nan") for name, value in row.items()} for row in csv.DictReader(file)]
        ttft = [1e3 * row["prefill_e2e_time"] for row in rows]
        tpot = [
            1e3 * (row["request_e2e_time"] - row["prefill_e2e_time"]) / (row["request_num_decode_tokens"] - 1)
            for row in rows
            if row["request_num_decode_tokens"] > 1
        ]
        return Served(simulator, ttft, tpot, wall), folder


def with_dooly(vidur: Vidur, model: SavedModel, steps: Path) -> tuple[Served, str]:
    """Vidur on dooly's predictor, and what was seen of it."""
    script = [str(ROOT / "benchmarks" / "run_vidur.py"), "report.json"]
    served, folder = vidur.run("Vidur with dooly inside", script, steps)
    seen = json.loads((folder / "report.json").read_text())
    worst = 0.0
    for requests, told_s in seen["steps"]:
        expected = model.steps.step_time(Batch.of(*map(tuple, requests))).total_us * 1e-6
        worst = max(worst, abs(told_s / expected - 1))
    calls = np.array(seen["call_ns"]) / 1e3
    beyond = calls - np.array(seen["step_time_ns"]) / 1e3
    talk = (
        f"{len(calls):,d} steps, each within {worst:.0e} of step_time; a call takes {calls.mean():.1f} us (median "
        f"{np.median(calls):.1f}), {beyond.mean():.1f} us (median {np.median(beyond):.1f}) beyond step_time"
    )
    return served, talk


def with_tables(vidur: Vidur, model: SavedModel, steps: Path, folder: Path, kind: str) -> Served:
    """Vidur's stock predictor on dooly's tables; training counts to wall time."""
    write_tables(model, folder, Limits(TOKENS, REQUESTS, LENGTH), BLOCK)
    prefix = f"--{kind}_execution_time_predictor_config"
    flags = [
        f"--execution_time_predictor_config_type={kind}",
        f"{prefix}_compute_input_file={folder / 'mlp.csv'}",
        f"{prefix}_attention_input_file={folder / 'attention.csv'}",
        f"{prefix}_prediction_max_prefill_chunk_size={TOKENS}",
        f"{prefix}_prediction_max_tokens_per_request={LENGTH}",
        *(f"{prefix}_{name}={value}" for name, value in STOCK[kind]),
    ]
    name = "Vidur's linear regression" if kind == LINEAR else "Vidur's random forest, one setting,"
    return vidur.run(f"{name} on dooly's tables", ["-m", "dooly.adapters.vidur"], steps, *flags)[0]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="+", type=Path, help="files of `dooly export steps`")
    parser.add_argument("--trace", required=True, help="arrival trace, e.g. the published Azure 2023 conversations")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--vidur", default=str(ROOT / ".venv-adapters" / "vidur" / "bin" / "python"))
    parser.add_argument("--source", default=os.environ.get("VIDUR_SOURCE", ""))
    parser.add_argument("--stock", nargs="*", choices=list(STOCK), default=list(STOCK))
    arguments = parser.parse_args()
    trace = read_trace(arguments.trace).first(arguments.requests)
    print("| model | simulator | TTFT mean, p99 (ms) | TPOT mean, p99 (ms) | wall (s) |")
    print("|---|---|---|---|---|", flush=True)
    talk: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        vidur = Vidur(arguments.vidur, arguments.source, folder, trace)
        for path in arguments.steps:
            model = SavedModel.load(path)
            title = f"{model.name} on {model.device}"
            print(f"| {title} | {in_dooly(model, trace)} |", flush=True)
            served, seen = with_dooly(vidur, model, path)
            talk.append(f"{title}: {seen}")
            print(f"| | {served} |", flush=True)
            for kind in arguments.stock:
                print(f"| | {with_tables(vidur, model, path, folder / model.name, kind)} |", flush=True)
    print("\n" + "\n".join(talk))


if __name__ == "__main__":
    main()
