"""AIConfigurator's own estimates of the points in its wheel: aiconfigurator_rows.py WHEEL -o estimates.csv

Runs where `aiconfigurator` is installed, and needs nothing of dooly.
"""

import argparse
import csv
import importlib
import io
import logging
import signal
import sys
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["main"]

SAMPLE = "aiconfigurator_core/systems/silicon_sample.csv"
MODELS = {
    ("meta-llama/Llama-3.1-70B", "fp8"): ("nvidia/Llama-3.1-70B-Instruct-FP8", {}),
    ("nvidia/Llama-3.1-8B-Instruct-FP8", "fp8"): ("meta-llama/Meta-Llama-3.1-8B", {"gemm_quant_mode": "fp8"}),
    ("Qwen/Qwen3-32B", "fp8"): ("Qwen/Qwen3-32B-FP8", {}),
    ("Qwen/Qwen3-32B", ""): ("Qwen/Qwen3-32B", {}),
}
"""Its name of a model in a precision, and what it must be told beside it."""

PATIENCE_S = 60


def main(argv: list[str] | None = None) -> int:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel")
    parser.add_argument("-o", "--output", required=True)
    options = parser.parse_args(argv)
    logging.disable(logging.CRITICAL)
    try:
        _write(options.wheel, options.output)
    finally:
        logging.disable(logging.NOTSET)
    return 0


def _write(wheel: str, path: str) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "ttft_ms", "tpot_ms"))
        for row in _rows(wheel):
            try:
                writer.writerow((row["id"], *_estimate(row)))
            except Exception as error:
                sys.stderr.write(f"{row['id']}: {error}\n")
            file.flush()


def _rows(wheel: str) -> Iterator[dict[str, str]]:
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(SAMPLE).decode()
    for row in csv.DictReader(io.StringIO(text)):
        if row["mode"] == "agg" and row["backend"] == "vllm" and (row["model_path"], row["precision"]) in MODELS:
            yield row


def _estimate(row: Mapping[str, str]) -> tuple[float, float]:
    """Estimated TTFT and TPOT, ms."""
    api: Any = importlib.import_module("aiconfigurator.cli.api")
    model, more = MODELS[row["model_path"], row["precision"]]
    sizes = {name: int(row[name] or 1) for name in ("tp_size", "pp_size", "attention_dp_size")}
    signal.signal(signal.SIGALRM, _give_up)
    signal.alarm(PATIENCE_S)
    try:
        found = api.cli_estimate(
            model,
            row["system"],
            mode="agg",
            backend_name="vllm",
            isl=int(row["isl"]),
            osl=int(row["osl"]),
            batch_size=int(row["batch_size"]),
            **sizes,
            **more,
        )
    finally:
        signal.alarm(0)
    return float(found.ttft), float(found.tpot)


def _give_up(*_: object) -> None:
    raise TimeoutError(f"no estimate after {PATIENCE_S} s")


if __name__ == "__main__":
    raise SystemExit(main())
