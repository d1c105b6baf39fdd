"""AIConfigurator (aiconfigurator-core 0.12.0): a private root of systems with Parquet tables, times in ms."""

import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import polars as pl

from dooly.adapters.grid import Limits, Outside, doubling
from dooly.adapters.shape import unquantized
from dooly.batch import Batch
from dooly.database.trial import read_any, try_out
from dooly.errors import PredictError
from dooly.files import write_bytes, write_text
from dooly.ir.expr import evaluate
from dooly.ir.operation import Operation
from dooly.ir.opset import Kind
from dooly.predict import SavedModel, Work

__all__ = ["write_systems"]

Row = dict[str, object]

_FAMILIES = {
    "gemm_perf": "gemm",
    "context_attention_perf": "attention",
    "generation_attention_perf": "attention",
    "moe_perf": "moe",
    "custom_allreduce_perf": "comm",
}
"""Its tables and the folders in which it looks for them."""


def write_systems(model: SavedModel, root: Path, limits: Limits, system: str) -> tuple[list[Path], Outside]:
    """Write tables below ``data/<system>``; rows of other models that are there stay.

    Norms, activations, rotary embedding and lookups are formulas over bandwidth in AIConfigurator, so no table holds
    them; attention contains the write to the KV cache, which its formulas add once more.

    Args:
        root: what its ``--systems-paths`` names; beside the tables it wants ``<system>.yaml``, the data sheet of the
            device, which comes with AIConfigurator.
        system: name of the device there, e.g. ``h200_sxm``.

    Returns:
        The tables written, and what lay outside of the measured sizes.

    Raises:
        PredictError: numbers of a GEMM are not 16 bits wide, or the engine is not vLLM.
    """
    engine, _, version = model.settings.get("engine", "").partition(" ")
    if engine != "vllm":
        raise PredictError(
            f"{model.name}: captured as {model.settings.get('engine', 'an unknown engine')} runs it; AIConfigurator's "
            "tables are written for vllm"
        )
    unquantized(model, "AIConfigurator's 16-bit tables")
    outside = Outside()
    tables = {
        "gemm_perf": _gemm(model, limits, outside),
        "context_attention_perf": _attention(model, limits, outside, context=True),
        "generation_attention_perf": _attention(model, limits, outside, context=False),
        "moe_perf": _moe(model, limits, outside),
        "custom_allreduce_perf": _all_reduce(model, limits, outside),
    }
    source: Row = {"framework": "VLLM", "version": version, "device": model.device}
    written: list[Path] = []
    for name, rows in tables.items():
        frame = pl.DataFrame([source | row for row in rows])
        if len(frame):
            folder = root / "data" / system / _FAMILIES[name] / "vllm" / version
            written.append(_write_table(folder, name, frame, version))
    return written, outside


def _gemm(model: SavedModel, limits: Limits, outside: Outside) -> Iterable[Row]:
    for work in model.steps.work:
        if work.operation.kind is not Kind.GEMM:
            continue
        k, n = (int(evaluate(size, {})) for size in reversed(work.operation.operands[1].shape))
        for m in doubling(limits.requests if work.axis == "L" else limits.tokens):
            us = _each(work, dict.fromkeys("TLR", m), Batch.of((m, 0)), outside)
            key: Row = {"op_name": "gemm", "kernel_source": "default", "gemm_dtype": "bfloat16"}
            yield key | {"m": m, "n": n, "k": k, "latency": us / 1e3}


def _attention(model: SavedModel, limits: Limits, outside: Outside, *, context: bool) -> Iterable[Row]:
    """Whole prompts of `batch_size` requests, or as many that each decode with `step` tokens cached; 16 and more."""
    for work in model.steps.work:
        if work.operation.kind is not Kind.ATTENTION:
            continue
        facts = {name: _integer(work.operation, name) for name in ("heads", "kv_heads", "head_size", "window")}
        for count in doubling(limits.requests):
            for length in doubling(limits.context - 1):
                if length < 16 or (context and count * length > limits.tokens):
                    continue
                batch = Batch.of(*[(length, 0) if context else (1, length)] * count)
                values = {**batch.attention(facts["window"] or None), "L": count}
                yield {
                    "op_name": "context_attention" if context else "generation_attention",
                    "kernel_source": "default",
                    "batch_size": count,
                    "isl": length if context else 1,
                    "num_heads": facts["heads"],
                    "num_key_value_heads": facts["kv_heads"],
                    "head_dim": facts["head_size"],
                    "beam_width": 1,
                    "attn_dtype": "bfloat16",
                    "kv_cache_dtype": "bfloat16",
                    "step": 0 if context else length,
                    "window_size": facts["window"],
                    "latency": _each(work, values, batch, outside) / 1e3,
                }


def _moe(model: SavedModel, limits: Limits, outside: Outside) -> Iterable[Row]:
    for work in model.steps.work:
        if work.operation.kind is not Kind.MOE:
            continue
        experts = _integer(work.operation, "experts")
        for tokens in doubling(limits.tokens):
            us = _each(work, dict.fromkeys("TLR", tokens), Batch.of((tokens, 0)), outside)
            yield {
                "op_name": "moe",
                "kernel_source": "default",
                "moe_dtype": "bfloat16",
                "num_tokens": tokens,
                "hidden_size": model.config["H"],
                "inter_size": model.config.get("Im", model.config.get("I", 0)),
                "topk": _integer(work.operation, "top_k"),
                "num_experts": experts,
                "moe_tp_size": model.tensor_parallel,
                "moe_ep_size": 1,
                "distribution": "balanced",
                "latency": us / 1e3,
            }


def _all_reduce(model: SavedModel, limits: Limits, outside: Outside) -> Iterable[Row]:
    """`message_size` counts elements."""
    for work in model.steps.work:
        if work.operation.target != "all_reduce":
            continue
        for tokens in doubling(limits.tokens):
            us = _each(work, dict.fromkeys("TLR", tokens), Batch.of((tokens, 0)), outside)
            yield {
                "op_name": "all_reduce",
                "kernel_source": "vLLM_custom_graph",
                "allreduce_dtype": "bfloat16",
                "num_gpus": _integer(work.operation, "ranks"),
                "message_size": int(evaluate(work.operation.operands[0].numel, {"T": tokens})),
                "latency": us / 1e3,
                "backend": "vllm_graph",
            }


def _each(work: Work, values: Mapping[str, int], batch: Batch, outside: Outside) -> float:
    """us of one run; extrapolations are noted."""
    total, beyond = work.alone_us(values)
    outside.note(batch, beyond)
    return total / work.count


def _integer(operation: Operation, name: str) -> int:
    """An attribute as a number; 0 for none."""
    value = operation.attr(name)
    return 0 if value is None else int(str(value))


def _write_table(folder: Path, name: str, frame: pl.DataFrame, version: str) -> Path:
    """Add rows to a table: what it held of the same keys is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.parquet"
    keys = [column for column in frame.columns if column != "latency"]
    if path.exists():
        try_out(path)
        frame = pl.concat([read_any(path), frame])
    frame = frame.unique(keys, keep="last", maintain_order=True)
    content = io.BytesIO()
    frame.write_parquet(content)
    write_bytes(path, content.getvalue())
    present = sorted(file.stem for file in folder.glob("*.parquet"))
    meta = {
        "schema_version": 1,
        "provenance": "legacy",
        "runtime": {"framework": "vllm", "version": version},
        "tables": {table: {"status": "complete"} for table in present},
    }
    write_text(folder / "collection_meta.yaml", json.dumps(meta, indent=1) + "\n")
    return path
