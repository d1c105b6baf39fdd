"""Write docs/results/beside-other-predictors.md: step times of three predictors beside the same recorded engine steps.

    python benchmarks/step_errors.py RECORDING... --aiconfigurator PYTHON --vidur PYTHON --vidur-source FOLDER

A recording is a file of `dooly record`: single steps (.json) or served traces (.json.gz).  PYTHON is the interpreter of
an environment where the other program is installed; without it that program is left out.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dooly.adapters.grid import Limits
from dooly.adapters.shape import shape_of
from dooly.adapters.vidur.tables import write_tables
from dooly.batch import Batch
from dooly.engine.process import in_own_process
from dooly.errors import DoolyError
from dooly.escape import show
from dooly.evaluate.kernels import recorded_cost
from dooly.evaluate.recording import Recording, load_recording
from dooly.evaluate.replay import recorded_model, recorded_platform
from dooly.evaluate.steps import StepRecording, load_steps
from dooly.files import write_text
from dooly.predict import SavedModel
from dooly.report import Column, Table, markdown
from dooly.workspace.defaults import DATABASE
from dooly.workspace.models import saved_model

__all__ = ["main"]

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "results" / "beside-other-predictors.md"
WORKERS = ROOT / "benchmarks" / "side_by_side"
LIMITS = Limits(8192, 256, 16384)

HEAD = """# Beside other predictors

Written by `python benchmarks/step_errors.py`: the same recorded engine steps, three predictors.

- **dooly**: the sum of its operations, padded as the engine padded the step; a whole step also has the host's work
  where it was measured, and is that sum alone where it was not.
- **AIConfigurator** {aiconfigurator}: its own tables for the same kind of GPU and vLLM 0.24.0, asked for the mean of
  the requests that decode and for the mean of the prompts; mixed steps with the length of each for its attention.
- **Vidur**: the stock predictors of microsoft/vidur (commit of 2024-11), trained on what `dooly export vidur` writes;
  they know neither embedding nor LM head, and no host by default. Its polynomial regression; its random forests, the
  default there, are trained too where `--forest` is given.

Errors are absolute, in percent of the measurement; bias is signed. *GPU* is the time from calling the model to its last
kernel, the start of an idle GPU included (0.4 to 0.6 ms), *whole* the step as the scheduler sees it, with synchronous
scheduling. Single steps count once for each shape (median of its repetitions), steps of served traces each.
"""

_COLUMNS = (
    Column("kind", "class"),
    Column("steps", "steps", ",d"),
    Column("predictor", "predictor"),
    Column("gpu_median", "GPU: median (%)", ".1f"),
    Column("gpu_p90", "90 % (%)", ".1f"),
    Column("gpu_bias", "bias (%)", "+.1f"),
    Column("whole_median", "whole: median (%)", ".1f"),
    Column("whole_p90", "90 % (%)", ".1f"),
    Column("whole_bias", "bias (%)", "+.1f"),
)


Predictions = dict[str, tuple[Sequence[float], Sequence[float]]]
"""By program: GPU time and whole time of each step, us."""


@dataclass(frozen=True)
class Seen:
    """A recorded step, or a shape of steps; us."""

    batch: Batch
    padded: int
    gpu_us: float
    whole_us: float


def main(argv: Sequence[str] | None = None) -> int:
    """Ask everybody and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recordings", nargs="+", type=Path, metavar="RECORDING")
    parser.add_argument("--aiconfigurator", metavar="PYTHON", help="where aiconfigurator-core is installed")
    parser.add_argument("--vidur", metavar="PYTHON", help="where the packages that Vidur needs are installed")
    parser.add_argument("--vidur-source", metavar="FOLDER", help="checkout of microsoft/vidur, with vidur/__init__.py")
    parser.add_argument("--forest", action="store_true", help="Vidur's random forests too, which take long to train")
    parser.add_argument("--db", default=DATABASE, help="latency database; what ships if there is none")
    parser.add_argument("-o", "--output", default=str(PAGE), metavar="FILE")
    args = parser.parse_args(argv)
    try:
        parts = [HEAD.format(aiconfigurator=_version(args.aiconfigurator))]
        recordings = {
            path: load_recording(path) if path.suffix == ".gz" else load_steps(path) for path in args.recordings
        }
        groups: dict[tuple[object, ...], list[Path]] = {}
        for path, recording in recordings.items():
            groups.setdefault(_group(recording), []).append(path)
        tables: dict[Path, Table] = {}
        for paths in groups.values():  # one process captures for one GPU
            alike = [recordings[path] for path in paths]
            tables |= dict(zip(paths, in_own_process(_tables, alike, args), strict=True))
        for path in args.recordings:
            parts += [f"## {path.name.partition('.json')[0]}\n", markdown(tables[path])]
        write_text(args.output, "\n".join(parts))
    except DoolyError as error:
        raise SystemExit(f"error: {error}") from error
    return 0


def _group(recording: Recording | StepRecording) -> tuple[object, ...]:
    """What recordings have in common that one training of a predictor serves."""
    return recorded_platform(recording), recording.model, recording.tp, recording.backend


def _version(python: str | None) -> str:
    if python is None:
        return "(not asked)"
    code = "from importlib.metadata import version; print(version('aiconfigurator-core'))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def _tables(recordings: Sequence[Recording | StepRecording], args: argparse.Namespace) -> list[Table]:
    """One for each recording of one model, backend and GPU: Vidur is trained once for all of them."""
    seen = [_seen(recording) for recording in recordings]
    others = _others(recordings[0], [each for found in seen for each in found], args)
    tables: list[Table] = []
    begin = 0
    for recording, found in zip(recordings, seen, strict=True):
        model = recorded_model(recording, args.db)
        part = slice(begin, begin := begin + len(found))
        predictions: Predictions = {"dooly": _dooly(model, found)}
        predictions |= {name: (gpu[part], whole[part]) for name, (gpu, whole) in others.items()}
        facts = dict(recording.facts)
        host = "host time not measured" if model.device_only else "with host time"
        title = f"{recording.model}, {facts['device']}, {facts.get('engine', '')}, {recording.backend}; dooly {host}"
        tables.append(Table(title, _COLUMNS, list(_rows(found, predictions))))
    return tables


def _others(recording: Recording | StepRecording, seen: Sequence[Seen], args: argparse.Namespace) -> Predictions:
    """Of every other program that is there and knows the model."""
    predictions: Predictions = {}
    if args.aiconfigurator:
        predictions |= _alone("AIConfigurator", args.aiconfigurator, _aiconfigurator(recording, seen), {})
    if args.vidur:
        question, environment = _vidur(seen), {"PYTHONPATH": args.vidur_source or ""}
        with tempfile.TemporaryDirectory() as folder:
            try:
                _export(_captured(recording, args.db), Path(folder), question)
            except DoolyError as error:
                show(f"Vidur: {error}", file=sys.stderr)
            else:
                predictions |= _alone("Vidur, regression", args.vidur, question, environment)
                if args.forest:
                    predictions |= _alone("Vidur, forest", args.vidur, {**question, "forest": True}, environment)
    return predictions


def _seen(recording: Recording | StepRecording) -> list[Seen]:
    """What was measured with synchronous scheduling."""
    if isinstance(recording, StepRecording):
        return [
            Seen(
                steps[0].batch,
                steps[0].padded,
                statistics.median(step.gpu_us for step in steps),
                statistics.median(step.wall_us for step in steps),
            )
            for steps in recording.timed.values()
        ]
    runs = [run for run in recording.runs if run.steps and not run.settings.async_scheduling]
    return [
        Seen(step.batch, step.padded or step.batch.tokens, step.device_us, step.total_us)
        for run in runs
        for step in run.steps
    ]


def _dooly(model: SavedModel, seen: Sequence[Seen]) -> tuple[list[float], list[float]]:
    costs = [recorded_cost(model.steps, each.batch, each.padded) for each in seen]
    return [cost.span_us(idle=True) for cost in costs], [cost.total_us for cost in costs]


def _alone(name: str, python: str, question: Mapping[str, Any], environment: Mapping[str, str]) -> Predictions:
    """Ask a program in its own environment; nothing if it does not know the model, which is said."""
    worker = WORKERS / f"{name.partition(',')[0].lower()}_worker.py"
    own = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [python, str(worker)], input=json.dumps(question), capture_output=True, text=True, env=own | environment
    )
    if done.returncode:
        show(f"{name}: {(done.stderr.strip().splitlines() or ['no message'])[-1][:200]}", file=sys.stderr)
        return {}
    times: list[float] = json.loads(done.stdout)
    return {name: (times, times)}


def _batches(seen: Sequence[Seen]) -> list[tuple[tuple[int, int], ...]]:
    return [each.batch.requests for each in seen]


def _aiconfigurator(recording: Recording | StepRecording, seen: Sequence[Seen]) -> dict[str, Any]:
    return {
        "model": str(ROOT / "dooly" / "models" / recording.model),
        "system": f"{recorded_platform(recording)}_sxm",
        "tp": recording.tp,
        "batches": _batches(seen),
    }


def _vidur(seen: Sequence[Seen]) -> dict[str, Any]:
    return {"batches": _batches(seen), "block_size": 16, "threads": os.cpu_count() or 1, "forest": False}


def _captured(recording: Recording | StepRecording, location: str) -> SavedModel:
    """The model with its dimensions, which the shipped table of operations does not have."""
    platform = recorded_platform(recording)
    found = saved_model(recording.model, location, recording.backend, tp=recording.tp, platform=platform)
    settings = recording.settings if isinstance(recording, StepRecording) else recording.runs[0].settings
    return found.under(settings.max_num_seqs, settings.max_num_batched_tokens)


def _export(model: SavedModel, folder: Path, question: dict[str, Any]) -> None:
    """What `dooly export vidur` writes, and the shape that Vidur asks for."""
    write_tables(model, folder, LIMITS, question["block_size"])
    shape = asdict(shape_of(model))
    question["folder"] = str(folder)
    question["shape"] = {
        "num_layers": shape["layers"],
        "num_q_heads": shape["heads"],
        "num_kv_heads": shape["kv_heads"],
        "embedding_dim": shape["hidden"],
        "mlp_hidden_dim": shape["intermediate"] * max(shape["experts"], 1),
        "max_position_embeddings": shape["context"],
        "use_gated_mlp": True,
        "use_bias": False,
        "use_qkv_bias": False,
        "post_attn_norm": True,
        "vocab_size": shape["vocabulary"],
    }


def _rows(
    seen: Sequence[Seen], predictions: Mapping[str, tuple[Sequence[float], Sequence[float]]]
) -> Iterator[dict[str, Any]]:
    for kind in ("decode", "prefill", "mixed"):
        places = [place for place, each in enumerate(seen) if each.batch.kind == kind]
        if not places:
            continue
        for name, (gpu, whole) in predictions.items():
            yield {
                "kind": kind,
                "steps": len(places),
                "predictor": name,
                **_errors("gpu", [gpu[i] / seen[i].gpu_us - 1 for i in places]),
                **_errors("whole", [whole[i] / seen[i].whole_us - 1 for i in places]),
            }


def _errors(what: str, signed: Sequence[float]) -> dict[str, float]:
    sizes = 100 * np.abs(signed)
    return {
        f"{what}_median": float(np.median(sizes)),
        f"{what}_p90": float(np.quantile(sizes, 0.9)),
        f"{what}_bias": float(100 * np.median(signed)),
    }


if __name__ == "__main__":
    sys.exit(main())
