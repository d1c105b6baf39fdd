"""Capture a list of models on this machine's platform and write their IR: a record of what a real GPU shows the engine.

    python scripts/record_gpu_view.py FOLDER [--platform h200]

Each view is one file; `environment.json` says what the machine was and which views failed, and why.  Run on a machine
with the GPU nothing is faked; run elsewhere, the GPU is stood in for, and the same engine must give the same text.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform as machine
import sys
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dooly.capture import capture
from dooly.ir import format_graph

__all__ = ["VIEWS", "file_name"]

VIEWS: tuple[Mapping[str, Any], ...] = (
    {"model": "llama-3.1-8b", "backend": "FLASH_ATTN"},
    {"model": "llama-3.1-8b", "backend": "FLASHINFER"},
    {"model": "llama-3.1-8b", "backend": "TRITON_ATTN"},
    {"model": "llama-3.1-8b", "eager": True},
    {"model": "llama-3.1-8b", "quantization": "fp8", "kv_cache_dtype": "fp8"},
    {"model": "llama-3.1-8b", "quantization": "fp8", "kv_cache_dtype": "fp8", "eager": True},
    {"model": "qwen3-8b"},
    {"model": "qwen3-8b", "quantization": "fp8", "kv_cache_dtype": "fp8", "backend": "FLASHINFER"},
    {"model": "mixtral-8x7b"},
    {"model": "gemma-2-9b"},
    {"model": "qwen3-30b-a3b"},
    {"model": "deepseek-v2-lite"},
    {"model": "llama-3.1-8b", "tp": 4},
)
"""Keywords of `dooly.capture.capture`, without the platform."""


def file_name(view: Mapping[str, Any]) -> str:
    """The model, then what differs from the defaults.

    >>> file_name({"model": "llama-3.1-8b", "tp": 4, "eager": True})
    'llama-3.1-8b,tp=4,eager.ir'
    """
    words = [key if value is True else f"{key}={value}" for key, value in view.items() if key != "model"]
    return ",".join([view["model"], *words]).lower() + ".ir"


def main() -> int:
    parser = argparse.ArgumentParser(description="record the IR of models as this machine's platform shows them")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--platform", default="h200", choices=("h100", "h200"))
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    seconds: dict[str, float] = {}
    failed: dict[str, str] = {}
    for view in VIEWS:
        name, start = file_name(view), time.perf_counter()
        try:
            text = format_graph(capture(**view, platform=args.platform))
            (args.folder / name).write_text(text + "\n", encoding="utf-8")
        except Exception as error:  # the rest of the record is worth having
            failed[name] = f"{type(error).__name__}: {error}"[:500]
        seconds[name] = round(time.perf_counter() - start, 2)
        sys.stdout.write(f"{seconds[name]:8.2f} s  {name}  {failed.get(name, '')}\n")
    record = {**_environment(), "platform": args.platform, "seconds": seconds, "failed": failed}
    (args.folder / "environment.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return 0


def _environment() -> dict[str, Any]:
    import torch

    gpu = torch.cuda.is_available()
    packages = {
        name: found
        for name in ("torch", "vllm", "transformers", "flashinfer-python", "triton")
        if (found := _version(name))
    }
    driver: str | None = None
    if gpu:
        from vllm.third_party import pynvml

        pynvml.nvmlInit()
        driver = str(pynvml.nvmlSystemGetDriverVersion())
    return {
        "gpu": torch.cuda.get_device_name() if gpu else None,
        "driver": driver,
        "cuda": torch.version.cuda,
        "packages": packages,
        "python": machine.python_version(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    raise SystemExit(main())
