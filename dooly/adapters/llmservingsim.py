"""LLMServingSim 2.0 (casys-kaist/LLMServingSim, v1.1.0): a profile bundle, times in us of one layer."""

import json
from collections.abc import Iterable
from itertools import product
from pathlib import Path

from dooly.adapters.grid import Limits, Outside, doubling
from dooly.adapters.layer import LAYER_PARTS, STEP_PARTS, shares_of
from dooly.batch import Batch
from dooly.files import write_text
from dooly.ir.opset import Kind
from dooly.predict import Parts, SavedModel

__all__ = ["write_bundle"]

_DENSE = {
    "embedding": "embedding",
    "qkv_proj": "attn_pre_proj",
    "rotary_emb": "rope",
    "o_proj": "attn_post_proj",
    "gate_up_proj": "mlp_up_proj",
    "act_fn": "mlp_act",
    "down_proj": "mlp_down_proj",
    "final_layernorm": "final_norm",
}
"""Its layers and the parts that they stand for; ``layernorm``, which runs twice in each layer, is both norms and all
that has no layer of its own."""


def write_bundle(
    model: SavedModel, root: Path, limits: Limits, hardware: str, name: str, architecture: str
) -> tuple[Path, Outside]:
    """Write ``<root>/<hardware>/<name>/<variant>/`` with meta.yaml and ``tp<ranks>/*.csv``; returns that folder.

    The tables are of one rank; what ranks tell each other is the simulator's own matter.  It has no place for host time
    and dispatch: they count to ``sampler``, as in a step of that many requests that decode, so that decode steps are as
    long as predicted.

    Args:
        root: its folder ``profiler/perf``.
        name: of the model there, e.g. ``meta-llama/Llama-3.1-8B``.
        architecture: one of its ``profiler/models/*.yaml``.

    Raises:
        PredictError: the model is a pipeline stage.
    """
    model.check_whole("LLMServingSim")
    outside = Outside()
    parts = Parts(model.steps, (*LAYER_PARTS, *STEP_PARTS), shares_of)
    variant = {"f32": "fp32", "f16": "fp16"}.get(model.settings.get("dtype", ""), "bf16")
    folder = root / hardware / name / variant
    tables = folder / f"tp{model.tensor_parallel}"
    tables.mkdir(parents=True, exist_ok=True)
    _write(tables / "dense.csv", "layer,tokens,time_us", _dense(model, parts, limits, outside))
    _write(tables / "per_sequence.csv", "layer,sequences,time_us", _per_sequence(parts, limits, outside))
    header = "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us"
    _write(tables / "attention.csv", header, _attention(model, parts, limits, outside))
    if any(operation.kind is Kind.MOE for operation in model.operations):
        _write(tables / "moe.csv", "tokens,activated_experts,time_us", _moe(model, limits))
    meta = {
        "profiler_version": "1.0.0",
        "gpu": model.device,
        "hardware": hardware,
        "architecture": architecture,
        "model": name,
        "variant": variant,
        "tp_degrees": sorted(int(each.name.removeprefix("tp")) for each in folder.glob("tp[0-9]*")),
        "engine_effective": {"max_num_batched_tokens": limits.tokens, "max_num_seqs": limits.requests},
        "skew_fit": {"enabled": False},
    }
    write_text(folder / "meta.yaml", json.dumps(meta, indent=1) + "\n")  # JSON is YAML
    return folder, outside


def _times(parts: Parts, batch: Batch, outside: Outside) -> tuple[dict[str, float], float]:
    """us by part, and of the host and of dispatch together."""
    cost, times, dispatch = parts.at(batch)
    outside.note(batch, cost.extrapolated)
    return dict(zip(parts.names, times, strict=True)), cost.host_before_us + dispatch + cost.host_after_us


def _dense(model: SavedModel, parts: Parts, limits: Limits, outside: Outside) -> Iterable[tuple[object, ...]]:
    moe = any(operation.kind is Kind.MOE for operation in model.operations)
    skipped = {"gate_up_proj", "act_fn", "down_proj"} if moe else set[str]()
    for tokens in doubling(limits.tokens):
        us, _ = _times(parts, Batch.of((tokens, 0)), outside)
        for layer, part in _DENSE.items():
            if layer not in skipped:
                yield layer, tokens, us[part] / (1 if part in STEP_PARTS else model.layers)
        norms = us["attn_norm"] + us["mlp_norm"] + us["other"]
        yield "layernorm", tokens, norms / (2 * model.layers)


def _per_sequence(parts: Parts, limits: Limits, outside: Outside) -> Iterable[tuple[object, ...]]:
    for count in doubling(limits.requests):
        us, around = _times(parts, Batch.of(*[(1, 1)] * count), outside)
        yield "lm_head", count, us["lm_head"]
        yield "sampler", count, us["sampler"] + around


def _attention(model: SavedModel, parts: Parts, limits: Limits, outside: Outside) -> Iterable[tuple[object, ...]]:
    """Doubling axes from 16 on, each with 0."""
    chunks = [0, *(size for size in doubling(limits.tokens) if size >= 16)]
    histories = [0, *(size for size in doubling(limits.context - 1) if size >= 16)]
    counts = [0, *doubling(limits.requests)]
    for chunk, history, count, cached in product(chunks, histories, counts, histories):
        if not (chunk or count) or (history and not chunk) or (bool(count) != bool(cached)):
            continue
        batch = Batch.of(*([(chunk, history)] if chunk else []), *[(1, cached)] * count)
        if chunk + count > limits.tokens or (chunk > 0) + count > limits.requests or chunk + history > limits.context:
            continue
        outside.note(batch, model.steps.step_time(batch).extrapolated)
        yield chunk, history, count, cached, parts.varying(batch) / model.layers


def _moe(model: SavedModel, limits: Limits) -> Iterable[tuple[object, ...]]:
    """Experts with their router, for each number of experts that get a token."""
    works = [work for work in model.steps.work if shares_of(work).get("moe", 0) > 0]
    for tokens in doubling(limits.tokens):
        mixture = next(work.subject.mixture for work in works if work.subject.mixture)
        for active in sorted({min(size, mixture.experts) for size in doubling(mixture.experts)}):
            if mixture.chosen <= active <= tokens * mixture.chosen:
                values = {"T": float(tokens), "A": float(active)}
                total = sum(work.count * work.formula.predict_one(values)[0] for work in works)
                yield tokens, active, total / model.layers


def _write(path: Path, header: str, rows: Iterable[tuple[object, ...]]) -> None:
    lines = [header, *(",".join(map(str, row)) for row in rows)]
    write_text(path, "\n".join(lines) + "\n")
