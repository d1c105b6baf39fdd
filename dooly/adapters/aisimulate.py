"""AISimulate, and AIConfigurator's whole-model mode (0.12.0): a pair of forward-pass files, schema 6, times in ms.

Both read `fpm_forward_perf.parquet`, a row for each step, and its metadata beside it, by whose digest they know that
the two belong together.
"""

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from dooly.adapters.grid import Limits, Outside, doubling, step_ms
from dooly.adapters.shape import unquantized
from dooly.batch import Batch
from dooly.errors import PredictError
from dooly.files import write_bytes, write_text
from dooly.ir.opset import Kind
from dooly.predict import SavedModel

__all__ = ["write_pair"]

_NAME = "fpm_forward_perf"

_SCHEMA = {
    "schema_name": "aic_fpm_forward_perf",
    "schema_version": 6,
    "coordinate_system": "iteration_totals_balanced_v1",
    "measurement_policy": "dynamo_native_single_sample_v1",
}
"""Facts that its reader asks for.  It knows no other policy; `producer` says that nothing was sampled."""


def write_pair(model: SavedModel, root: Path, limits: Limits, system: str, name: str) -> tuple[list[Path], Outside]:
    """Write steps below ``data/<system>``: prompts alike, with a cached beginning or none, and requests that decode.

    Args:
        root: the private root of systems.
        system: name of the device there, e.g. ``h200_sxm``.
        name: of the model, as its reader is asked for it.

    Returns:
        Table and metadata, and what lay outside of the measured sizes.

    Raises:
        PredictError: a pipeline stage, weights or a cache that are not 16 bits wide, or an engine that is not vLLM.
    """
    model.check_whole("AISimulate")
    engine, _, version = model.settings.get("engine", "").partition(" ")
    if engine != "vllm":
        raise PredictError(f"{model.name}: captured as {engine or 'an unknown engine'} runs it; expected vllm")
    unquantized(model, "AISimulate's identity of a 16-bit model")
    outside = Outside()
    steps = list(_steps(limits))
    times = step_ms(model, [Batch.alike([(new, cached, count)]) for _, new, cached, count in steps], outside)
    identity = {**_identity(model, name), "system": system, "backend": "vllm", "backend_version": version}
    frame = pl.DataFrame(
        [
            {
                **identity,
                "workload_kind": kind,
                "batch_size": count,
                "total_prefill_tokens": count * new if kind == "prefill" else 0,
                "total_kv_read_tokens": count * (cached if kind == "prefill" else cached + new),
                "partition_policy": "balanced_v1",
                "latency_ms": float(ms),
            }
            for (kind, new, cached, count), ms in zip(steps, times, strict=True)
        ]
    )
    content = io.BytesIO()
    frame.write_parquet(content, compression="zstd")
    folder = root / "data" / system / "vllm" / version
    table, sidecar = folder / f"{_NAME}.parquet", folder / f"{_NAME}.metadata.json"
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(table, content.getvalue())
    facts = {
        **_SCHEMA,
        "row_count": frame.height,
        "parquet_sha256": hashlib.sha256(content.getvalue()).hexdigest(),
        "system": system,
        "backend": "vllm",
        "backend_version": version,
        "model_paths": [name],
        "producer": f"dooly: predicted, {model.device}{''.join(f', {each}' for each in model.sources)}",
    }
    write_text(sidecar, json.dumps(facts, indent=2, sort_keys=True) + "\n")
    return [table, sidecar], outside


def _identity(model: SavedModel, name: str) -> dict[str, object]:
    """Columns that tell one deployment from another."""
    ranks, mixture = model.tensor_parallel, any(each.kind is Kind.MOE for each in model.operations)
    return {
        "cell_id": f"{name}-tp{ranks}",
        "model_path": name,
        "weight_quantization": "bfloat16",
        **{f"{part}_quant_mode": "bfloat16" for part in ("gemm", "moe", "fmha")},
        "comm_quant_mode": "half",
        "kv_cache_dtype": "bfloat16",
        "tp": ranks,
        "moe_tp": ranks if mixture else 1,
        **dict.fromkeys(("pp", "dp", "moe_ep", "cp"), 1),
        **dict.fromkeys(("moe_backend", "attention_backend"), "auto"),
        **dict.fromkeys(("enable_wideep", "enable_eplb"), False),
    }


def _steps(limits: Limits) -> Iterator[tuple[str, int, int, int]]:
    """Kind, new tokens and cached ones of each request, and requests."""
    for count in doubling(limits.requests):
        longest = min(limits.tokens // count, limits.context)
        for new in doubling(longest) if longest else []:
            for cached in (
                0,
                *(each for each in doubling(limits.context) if each >= 512 and each + new <= limits.context),
            ):
                yield "prefill", new, cached, count
        for context in doubling(limits.context)[1:]:
            yield "decode", 1, context - 1, count
