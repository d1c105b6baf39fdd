"""CSV files for the predictors that Vidur brings, times in ms.

``mlp.csv`` and ``attention.csv`` of one layer; ``all_reduce.csv`` and ``send_recv.csv`` of one message between ranks.
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from dooly.adapters.grid import Limits, Outside, doubling
from dooly.adapters.layer import LAYER_PARTS, STEP_PARTS, shares_of
from dooly.adapters.shape import Shape, shape_of
from dooly.batch import Batch
from dooly.escape import csv_cell
from dooly.files import write_text
from dooly.host import is_host_part
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


def write_tables(model: SavedModel, folder: Path, limits: Limits, block_size: int) -> tuple[list[Path], Outside]:
    """Write ``mlp.csv`` over tokens, and ``attention.csv`` over chunks with history and over decode batches.

    Beside them ``all_reduce.csv`` where ranks share the layers, and ``send_recv.csv`` where the model is one stage of
    several.  A prediction is one number: it stands for minimum, maximum, mean and median, with standard deviation 0.

    Returns:
        The files, and what lay outside of the measured sizes: not of the host's, whose time is in no table, as what a
        power limit does is in none.
    """
    shape, outside = shape_of(model), Outside()
    model = replace(model, formulas={key: each for key, each in model.formulas.items() if not is_host_part(key)})
    parts = Parts(model.steps, (*LAYER_PARTS, *STEP_PARTS), shares_of)
    ranks = model.tensor_parallel
    common = {"n_embd": shape.hidden, "n_kv_head": shape.kv_heads, "num_tensor_parallel_workers": ranks}
    mlp = {
        **common,
        "n_head": shape.heads,
        "n_expanded_embd": shape.intermediate * max(shape.experts, 1),
        "use_gated_mlp": True,
        "vocab_size": shape.vocabulary,
    }
    attention = {**common, "n_q_head": shape.heads, "block_size": block_size, "max_model_len": limits.context}
    rows = {
        "mlp.csv": [mlp | row for row in _mlp_rows(model, parts, limits, outside)],
        "attention.csv": [attention | row for row in _attention_rows(model, parts, limits, outside)],
        "all_reduce.csv": list(_messages(model, shape, limits, outside, "all_reduce", ranks)),
        "send_recv.csv": list(_messages(model, shape, limits, outside, "send", 2)),
    }
    paths = [folder / name for name, listed in rows.items() if listed]
    for path in paths:
        _write(path, rows[path.name])
    return paths, outside


def _messages(
    model: SavedModel, shape: Shape, limits: Limits, outside: Outside, target: str, devices: int
) -> Iterable[dict[str, object]]:
    """Messages as large as the hidden states of so many tokens; Vidur takes two bytes an element for granted.

    Hidden states that are sent in several parts are one message.
    """
    works = [work for work in model.steps.work if work.operation.target == target and work.axis == "T"]
    name = "send_recv" if target == "send" else target
    for tokens in _sizes(limits.tokens) if works else ():
        found = [work.alone_us({"T": tokens}) for work in works]
        runs = 1 if target == "send" else sum(work.count for work in works)
        outside.note(Batch.of((tokens, 0)), any(beyond for _, beyond in found))
        yield {
            **_columns({name: sum(total for total, _ in found) / runs}),
            "rank": 0,
            "num_workers": devices,
            "size": 2 * shape.hidden * tokens,
            "collective": name,
            "devices_per_node": devices,
            "max_devices_per_node": devices,
        }


def _mlp_rows(model: SavedModel, parts: Parts, limits: Limits, outside: Outside) -> Iterable[dict[str, object]]:
    for tokens in _sizes(limits.tokens):
        batch = Batch.of((tokens, 0))
        cost, times, _ = parts.at(batch)
        outside.note(batch, cost.extrapolated)
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
        outside.note(batch, model.steps.step_time(batch).extrapolated)
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


def _write(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: csv_cell(value) if isinstance(value, str) else value for key, value in row.items()})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text.getvalue())
