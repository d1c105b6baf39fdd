"""CSV files for the predictors that Vidur brings: ``mlp.csv`` and ``attention.csv``, times in ms of one layer."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from dooly.adapters.grid import Limits, Outside, doubling
from dooly.adapters.layer import LAYER_PARTS, STEP_PARTS, shares_of
from dooly.adapters.shape import shape_of
from dooly.batch import Batch
from dooly.errors import PredictError
from dooly.files import write_text
from dooly.predict import Parts, SavedModel

__all__ = ["write_tables"]

_MLP = {
    "attn_pre_proj": ("attn_pre_proj",),
    "attn_rope": ("rope",),
    "attn_post_proj": ("attn_post_proj",),
    "mlp_up_proj": ("mlp_up_proj", "moe"),
    "mlp_act": ("mlp_act",),
    "mlp_down_proj": ("mlp_down_proj",),
    "input_layernorm": ("attn_norm",),
    "post_attention_layernorm": ("mlp_norm",),
    "add": ("other",),
}
"""Vidur's operations and the parts of a layer that they stand for."""

_STATISTICS = ("min", "max", "mean", "median", "std")


def write_tables(model: SavedModel, folder: Path, limits: Limits, block_size: int) -> Outside:
    """Write ``mlp.csv`` over tokens, and ``attention.csv`` over chunks with history and over decode batches.

    A prediction is one number: it stands for minimum, maximum, mean and median, with standard deviation 0.

    Raises:
        PredictError: the model is spread over ranks, whose collectives cannot be told apart from these files.
    """
    if model.tensor_parallel > 1:
        raise PredictError(
            f"{model.name}: step times of {model.tensor_parallel} ranks; Vidur's predictors also want all_reduce.csv, "
            "and dooly measures no collectives yet; export one rank, or run `python -m dooly.adapters.vidur`"
        )
    shape, outside = shape_of(model), Outside()
    parts = Parts(model.steps, (*LAYER_PARTS, *STEP_PARTS), shares_of)
    common = {"n_embd": shape.hidden, "n_kv_head": shape.kv_heads, "num_tensor_parallel_workers": 1}
    mlp = {
        **common,
        "n_head": shape.heads,
        "n_expanded_embd": shape.intermediate * max(shape.experts, 1),
        "use_gated_mlp": True,
        "vocab_size": shape.vocabulary,
    }
    attention = {**common, "n_q_head": shape.heads, "block_size": block_size, "max_model_len": limits.context}
    _write(folder / "mlp.csv", (mlp | row for row in _mlp_rows(model, parts, limits, outside)))
    _write(folder / "attention.csv", (attention | row for row in _attention_rows(model, parts, limits, outside)))
    return outside


def _mlp_rows(model: SavedModel, parts: Parts, limits: Limits, outside: Outside) -> Iterable[dict[str, object]]:
    for tokens in _sizes(limits.tokens):
        batch = Batch.of((tokens, 0))
        cost, times, _ = parts.at(batch)
        outside.note(batch, cost)
        us = dict(zip(parts.names, times, strict=True))
        yield {
            "num_tokens": tokens,
            **_columns({name: sum(us[part] for part in of) / model.layers for name, of in _MLP.items()}),
        }


def _attention_rows(model: SavedModel, parts: Parts, limits: Limits, outside: Outside) -> Iterable[dict[str, object]]:
    histories = [0, *(size for size in doubling(limits.context - 1) if size >= 16)]
    chunks = [size for size in _sizes(limits.tokens) if size > 1]
    prefills = [(1, chunk, history) for chunk in chunks for history in histories if chunk + history <= limits.context]
    decodes = [(count, 0, history) for count in _sizes(limits.requests) for history in histories if history]
    for count, chunk, history in (*prefills, *decodes):
        batch = Batch.of((chunk, history)) if chunk else Batch.of(*[(1, history)] * count)
        outside.note(batch, model.steps.step_time(batch))
        each = parts.varying(batch) / model.layers
        yield {
            "batch_size": count,
            "prefill_chunk_size": chunk,
            "kv_cache_size": history,
            "is_prefill": bool(chunk),
            "attention_backend": model.settings.get("backend", ""),
            **_columns(
                {
                    "attn_prefill": each if chunk else 0.0,
                    "attn_decode": 0.0 if chunk else each,
                    "attn_kv_cache_save": 0.0,
                }
            ),
        }


def _sizes(largest: int) -> list[int]:
    """Doubling, with one size in between from 8 on."""
    sizes = doubling(largest)
    return sorted({*sizes, *(3 * size // 2 for size in sizes if size >= 8 and 3 * size // 2 <= largest)})


def _columns(us: Mapping[str, float]) -> dict[str, float]:
    return {
        f"time_stats.{name}.{statistic}": 0.0 if statistic == "std" else value * 1e-3
        for name, value in us.items()
        for statistic in _STATISTICS
    }


def _write(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    listed: Sequence[Mapping[str, object]] = list(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(listed[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(listed)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text.getvalue())
