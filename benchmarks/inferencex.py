"""Write docs/results/public-judge.md: python -m benchmarks.inferencex WHEEL --db dooly.sqlite --estimates estimates.csv

The wheel of `aiconfigurator-core` holds end-to-end points that others measured (`systems/silicon_sample.csv`), most of
them by InferenceX.  Each that dooly can express is predicted by `dooly bench` from operation times that the same wheel
holds, imported into the database; nothing is fitted to these points.  The estimates are those of AIConfigurator itself
(`benchmarks/side_by_side/aiconfigurator_rows.py`).
"""

import argparse
import io
import json
import math
import statistics
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl

from dooly.bench import Arrivals, RandomPrompts, measure
from dooly.bench.datasets import random_prompts
from dooly.bench.load import arriving
from dooly.engine.options import EngineOptions
from dooly.errors import DoolyError
from dooly.files import write_text
from dooly.foreign.aiconfigurator import DISTRIBUTION, RELEASE, SYSTEMS
from dooly.foreign.package import Package
from dooly.report import Column, Table, markdown
from dooly.workspace.lowering import model_path
from dooly.workspace.serving import Served

__all__ = ["main"]

PAGE = Path(__file__).resolve().parent.parent / "docs" / "results" / "public-judge.md"

_HOW = {"quant_algo": "FP8", "exclude_modules": ["lm_head"]}
_STATIC = {"quant_method": "modelopt", **_HOW, "quantization": _HOW}
_BLOCKS = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
MODELS: Mapping[tuple[str, str | None], tuple[str, Mapping[str, Any] | None]] = {
    ("meta-llama/Llama-3.1-70B", "fp8"): ("llama-3.1-70b", _STATIC),
    ("nvidia/Llama-3.1-8B-Instruct-FP8", "fp8"): ("llama-3.1-8b", _STATIC),
    ("Qwen/Qwen3-32B", "fp8"): ("qwen3-32b", _BLOCKS),
    ("Qwen/Qwen3-32B", None): ("qwen3-32b", None),
}
"""Bundled configuration and quantization of a published model in a precision."""

_MEAN, _RANGE = 0.9, 1 / 9
"""Lengths are drawn from 0.8 to 1 of what a row states, as by the client of InferenceX: 0.9, a ninth up and down."""


def main(argv: list[str] | None = None) -> int:
    """Predict, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--db", required=True, help="database into which the wheel's tables were imported")
    parser.add_argument("--estimates", type=Path, help="CSV of AIConfigurator's own estimates: id, ttft_ms, tpot_ms")
    parser.add_argument("--predictions", type=Path, default=Path("inferencex.jsonl"), help="what is done already")
    parser.add_argument("--limit-s", type=float, default=1e9, help="begin no further row after so many seconds")
    options = parser.parse_args(argv)
    try:
        rows = sample(options.wheel)
        predict_all(rows, options.db, options.predictions, time.time() + options.limit_s)
    except DoolyError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    done = [json.loads(line) for line in options.predictions.read_text().splitlines()]
    estimates = None if options.estimates is None else pl.read_csv(options.estimates)
    write_text(PAGE, page(rows, done, estimates))
    return 0


def sample(wheel: Path) -> pl.DataFrame:
    """The points of the wheel."""
    content = Package.open(wheel, DISTRIBUTION, RELEASE).read("systems", "silicon_sample.csv")
    return pl.read_csv(io.BytesIO(content), infer_schema_length=None)


def expressed(row: Mapping[str, Any]) -> bool:
    """Whether dooly has the model, precision, engine, GPU and parallelism of a row."""
    alone = all((row[name] or 1) == 1 for name in ("pp_size", "attention_dp_size", "moe_ep_size"))
    known = (row["model_path"], row["precision"]) in MODELS and row["system"] in SYSTEMS
    return row["mode"] == "agg" and row["backend"] == "vllm" and alone and known


def predict_all(rows: pl.DataFrame, location: str, path: Path, until: float) -> None:
    """Add predictions to a file, one JSON object a line; rows in it are left alone.

    Each GPU has a process of its own, since the engine that captures runs as one platform.
    """
    done = {json.loads(line)["id"] for line in path.read_text().splitlines()} if path.exists() else set[str]()
    wanted = [row for row in rows.iter_rows(named=True) if expressed(row) and row["id"] not in done]
    for system in sorted({row["system"] for row in wanted}):
        some = [row for row in wanted if row["system"] == system]
        process = get_context("spawn").Process(target=predict, args=(some, location, path, until))
        process.start()
        process.join()


def predict(wanted: list[dict[str, Any]], location: str, path: Path, until: float) -> None:
    """Predict rows of one GPU, those of long outputs last."""
    wanted.sort(
        key=lambda row: (row["osl"] > _LONG, row["model_path"], row["system"], row["tp_size"], row["batch_size"])
    )
    with TemporaryDirectory() as folder, path.open("a") as file:
        served: dict[tuple[object, ...], Served] = {}
        for row in wanted:
            if time.time() > until:
                return
            key = row["model_path"], row["precision"], row["system"], row["tp_size"]
            try:
                if key not in served:
                    served[key] = _served(row, Path(folder), location)
                found = _predicted(served[key], row)
            except DoolyError as error:
                found = {"id": row["id"], "error": str(error)}
            file.write(json.dumps(found) + "\n")
            file.flush()


def _served(row: Mapping[str, Any], folder: Path, location: str) -> Served:
    """The model under the options of InferenceX's server."""
    name, quantization = MODELS[row["model_path"], row["precision"]]
    config = json.loads((model_path(name) / "config.json").read_text(encoding="utf-8"))
    if quantization is not None:
        config["quantization_config"] = quantization
    place = folder / f"{name}-{row['precision']}"
    place.mkdir(exist_ok=True)
    (place / "config.json").write_text(json.dumps(config))
    asked = EngineOptions(
        max_num_seqs=512, max_num_batched_tokens=8192, gpu_memory_utilization=0.9, enable_prefix_caching=False
    )
    platform = f"{SYSTEMS[row['system']]}@{DISTRIBUTION}"
    return Served.of(str(place), asked, location, None, row["tp_size"] or 1, platform)


_LONG = 4096
"""Output tokens beyond which fewer requests are simulated."""


def _predicted(served: Served, row: Mapping[str, Any]) -> dict[str, Any]:
    slots = row["batch_size"]
    settings = replace(served.settings, max_num_seqs=slots)
    engine = replace(served, settings=settings, saved=served.saved.under(slots, settings.max_num_batched_tokens))
    lengths = RandomPrompts(round(_MEAN * row["isl"]), round(_MEAN * row["osl"]), _RANGE, _RANGE)
    each = 10 if row["osl"] <= _LONG else 3
    load = arriving("random", random_prompts(lengths, each * slots, seed=0), Arrivals(seed=0))
    run = engine.run(load, fast=True, concurrency=slots)
    result = measure(run, load, Arrivals(seed=0), slots)
    times = {"ttft_ms": 1e3 * float(result.ttft_s.mean()), "tpot_ms": 1e3 * float(result.tpot_s.mean())}
    return {"id": row["id"], **times, "sources": engine.saved.sources}


def page(rows: pl.DataFrame, done: Sequence[Mapping[str, Any]], estimates: pl.DataFrame | None) -> str:
    """The page, from predictions and estimates by the ids of their rows."""
    measured = {row["id"]: row for row in rows.iter_rows(named=True)}
    theirs = {} if estimates is None else {row["id"]: row for row in estimates.iter_rows(named=True)}
    predicted = [{**measured[each["id"]], **each} for each in done if "error" not in each and each["id"] in measured]
    for row in predicted:
        row["slots"] = next(name for most, name in _SLOTS if row["batch_size"] <= most)
        row["precision"] = row["precision"] or "none stated, bf16 taken"
    failed = Counter(str(each["error"]).partition(":")[2].strip()[:120] for each in done if "error" in each)
    both = [row for row in predicted if row["id"] in theirs]
    caveats = f"{len(predicted):,d} of {rows.height:,d} points are predicted."
    parts = [HEAD, f"{caveats}\n", markdown(_counts(rows, predicted))]
    parts += ["## Errors\n", markdown(_errors("all", [("all", predicted)], theirs))]
    for title, name in (
        ("GPU", "system"),
        ("model", "model_path"),
        ("precision", "precision"),
        ("concurrency", "slots"),
        ("ranks", "tp_size"),
    ):
        groups = dict.fromkeys(row[name] for row in sorted(predicted, key=lambda row: row[_ORDER.get(name, name)]))
        table = _errors(
            title, [(str(each), [row for row in predicted if row[name] == each]) for each in groups], theirs
        )
        parts.append(markdown(table))
    if both:
        parts += [
            f"## Beside AIConfigurator\n\nOn the {len(both):,d} points that both predict.\n",
            markdown(_errors("by", [("dooly", both)], {})),
            markdown(_errors("by", [("AIConfigurator", [{**row, **_times(theirs[row["id"]])} for row in both])], {})),
        ]
    if failed:
        reasons = [{"reason": reason, "points": count} for reason, count in failed.most_common()]
        columns = Column("reason", "not predicted because"), Column("points", "points", ",d")
        parts += ["## Not predicted\n", markdown(Table("", columns, reasons))]
    return "\n".join(parts)


_ORDER = {"slots": "batch_size"}
"""Columns by which groups are put in order, where that is not their own."""

_SLOTS = ((8, "1 to 8"), (32, "9 to 32"), (64, "33 to 64"), (math.inf, "65 and more"))
"""Largest concurrency of each group."""

HEAD = f"""# A public judge

Written by `python -m benchmarks.inferencex`. The wheel of {DISTRIBUTION} {RELEASE} holds end-to-end points that others
measured, most of them published by InferenceX: a server at a fixed concurrency, with its mean TTFT and TPOT. dooly
predicts each with `dooly bench`, from the operation times of the same wheel
([how](../how-to/predict-a-gpu-that-others-measured.md)); the host is that of dooly's H200. Nothing was fitted to these
points.

What speaks against taking an error for dooly's alone:

- The servers ran releases of vLLM from 0.10 to 0.19, many of them unnamed; operation times are of 0.24.0, the scheduler
  is that of 0.32.0.
- The client's code draws lengths from 0.8 to 1 of what a row states; some rows may be of another client. Ten requests
  are sent for each slot, three where outputs are longer than {_LONG:,d} tokens.
- Engine options are those that InferenceX published for its H200: as many sequences as slots, 8,192 tokens a step, no
  prefix caching. The KV cache is taken as bf16.
- Points of nvidia/Llama-3.1-8B-Instruct-FP8 on several GPUs take half of what both programs say: nothing tells whether
  their concurrency was shared by several servers.
- The servers fuse all-reduce, norms and conversions where the operation times have each by itself.
- Points of SGLang and TensorRT-LLM are other engines and are not predicted; nor are models whose configuration is not
  bundled, NVFP4, MXFP4 and int4, and data or expert parallelism.
"""


def _counts(rows: pl.DataFrame, predicted: Sequence[Mapping[str, Any]]) -> Table:
    found = Counter(row["model_path"] for row in predicted)
    groups = rows.group_by("model_path").agg(
        pl.len().alias("points"), ((pl.col("backend") == "vllm") & (pl.col("mode") == "agg")).sum().alias("vllm")
    )
    counted = [
        {**row, "predicted": found[row["model_path"]]} for row in groups.sort("points", descending=True).to_dicts()
    ]
    columns = (
        Column("model_path", "model"),
        Column("points", "points", ",d"),
        Column("vllm", "of one vLLM server", ",d"),
        Column("predicted", "predicted", ",d"),
    )
    return Table("", columns, counted)


def _times(row: Mapping[str, Any]) -> dict[str, float]:
    return {name: row[name] for name in ("ttft_ms", "tpot_ms")}


def _errors(
    title: str,
    groups: Sequence[tuple[str, Sequence[Mapping[str, Any]]]],
    theirs: Mapping[str, Mapping[str, Any]],
) -> Table:
    """Errors of each group: the median of the absolute one, its 90th percentile, and the median with its sign."""
    columns = [Column("group", title), Column("points", "points", ",d")]
    for name, head in (("ttft", "TTFT"), ("tpot", "TPOT"), ("rate", "tokens/s/GPU")):
        columns += [
            Column(f"{name}_median", f"{head} median (%)", ".0f"),
            Column(f"{name}_p90", "90 % (%)", ".0f"),
            Column(f"{name}_bias", "bias (%)", "+.0f"),
        ]
    if theirs:
        columns += [Column("their_ttft", "AIConfigurator TTFT (%)", ".0f"), Column("their_tpot", "its TPOT (%)", ".0f")]
    found: list[dict[str, Any]] = []
    for group, rows in groups:
        errors = [_error(row, row) for row in rows]
        line: dict[str, Any] = {"group": group, "points": len(rows), "their_ttft": None, "their_tpot": None}
        for place, name in enumerate(("ttft", "tpot", "rate")):
            signed = [100 * each[place] for each in errors]
            sizes = pl.Series([abs(each) for each in signed])
            line |= {f"{name}_median": sizes.median(), f"{name}_p90": sizes.quantile(0.9, "linear")}
            line[f"{name}_bias"] = statistics.median(signed) if signed else None
        if estimated := [_error(row, theirs[row["id"]]) for row in rows if row["id"] in theirs]:
            line |= {
                f"their_{name}": 100 * statistics.median(abs(each[place]) for each in estimated)
                for place, name in enumerate(("ttft", "tpot"))
            }
        found.append(line)
    return Table("", columns, found)


def _error(row: Mapping[str, Any], times: Mapping[str, Any]) -> tuple[float, float, float]:
    """Errors of TTFT, TPOT and the throughput that follows from both, as fractions."""
    measured = row["silicon_ttft_ms"], row["silicon_tpot_ms"]
    predicted = times["ttft_ms"], times["tpot_ms"]
    took, takes = (ttft + tpot * (row["osl"] - 1) for ttft, tpot in (measured, predicted))
    return predicted[0] / measured[0] - 1.0, predicted[1] / measured[1] - 1.0, took / takes - 1.0


if __name__ == "__main__":
    raise SystemExit(main())
