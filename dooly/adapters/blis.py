"""BLIS (inference-sim v0.7.9): a device for its hardware file, and coefficients of its trained-physics model.

BLIS computes rooflines of its own (us) and multiplies them by coefficients, none below zero: those are a least-squares
projection of step times.
"""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from dooly.adapters.coefficients import Projection, decode_shapes
from dooly.adapters.grid import Limits, Outside, doubling, step_ms
from dooly.adapters.shape import Shape, peak_tflops, shape_of, unquantized, weight_tbs
from dooly.batch import Batch
from dooly.files import write_text
from dooly.predict import SavedModel

__all__ = ["command", "write_blis"]

_WIDTHS = {"bf16": 2, "f16": 2, "f32": 4}
_KV_WIDTH = 2
"""Bytes of an element of the KV cache, whatever the model's type."""


def write_blis(model: SavedModel, folder: Path, limits: Limits, hardware: str) -> tuple[Outside, Projection]:
    """Write ``hardware_config.json`` with one device, and ``coefficients.json``: ``alpha``, ``beta``, ``projection``.

    Weights, layers and the step itself cost the same in every step of a model, so BLIS's three terms for them cannot be
    told apart: all that is constant counts to the weights.  Time outside of steps (alpha) is not predicted and zero.

    Args:
        hardware: name of the device for ``--hardware``; its rates are those that measured GEMMs reach, no data sheet:
            they only set the scale of the coefficients.

    Raises:
        PredictError: the model is quantized, a pipeline stage, or no transformer with plain attention.
    """
    model.check_whole("BLIS")
    unquantized(model, "BLIS", _WIDTHS)
    shape, outside = shape_of(model), Outside()
    device = {
        "TFlopsPeak": peak_tflops(model),
        "TFlopsFP8": 0,
        "BwPeakTBs": weight_tbs(model),
        "mfuPrefill": 1.0,
        "mfuDecode": 1.0,
        "MemoryGiB": model.memory_bytes / 2**30,
    }
    batches = _steps(limits)
    rooflines = _Rooflines(shape, model, device["TFlopsPeak"] * 1e6, device["BwPeakTBs"] * 1e6)
    terms = np.array([rooflines.of(batch) for batch in batches])
    projection = Projection.of("step", terms, step_ms(model, batches, outside) * 1e3, positive=True)
    prefill_compute, prefill_kv, decode_compute, decode_kv, weights, reduce, request = projection.coefficients
    beta = [prefill_compute, decode_compute, weights, reduce, 0.0, request, 0.0, 0.0, prefill_kv, decode_kv]
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "hardware_config.json", json.dumps({hardware: device}, indent=1) + "\n")
    content = {"alpha": [0.0, 0.0, 0.0], "beta": beta, "projection": asdict(projection)}
    write_text(folder / "coefficients.json", json.dumps(content, indent=1) + "\n")
    return outside, projection


def command(model: SavedModel, folder: Path, hardware: str) -> str:
    """Flags with which BLIS runs on what `write_blis` wrote there."""
    content = json.loads((folder / "coefficients.json").read_text())
    alpha, beta = (",".join(f"{each:.9g}" for each in content[name]) for name in ("alpha", "beta"))
    return (
        f"--latency-model trained-physics --hardware-config {folder / 'hardware_config.json'} --hardware {hardware} "
        f"--tp {model.tensor_parallel} --alpha-coeffs {alpha} --beta-coeffs {beta}"
    )


class _Rooflines:
    """BLIS's own terms of a step, us, as its model documents them."""

    def __init__(self, shape: Shape, model: SavedModel, flops_us: float, bytes_us: float) -> None:
        self._flops_us, self._bytes_us, self._ranks = flops_us, bytes_us, model.tensor_parallel
        self._head = shape.hidden / shape.heads
        self._hidden, self._layers, self._heads = shape.hidden, shape.layers, shape.heads
        width, kv = _WIDTHS[model.settings.get("dtype", "bf16")], shape.kv_heads * self._head
        projections = shape.hidden * (2 * shape.hidden + 2 * kv)
        expert = 3 * shape.hidden * shape.intermediate
        self._kv_bytes = 2 * kv * _KV_WIDTH
        self._token_flops = 2 * projections + 2 * expert * max(shape.top_k, 1)
        weights = self._layers * (projections + expert * max(shape.experts, 1)) * width / self._ranks
        self._weights_us = weights / bytes_us
        ring = 2 * (self._ranks - 1) / self._ranks
        self._reduce_us = 2 * self._layers * self._hidden * width * ring / bytes_us

    def of(self, batch: Batch) -> tuple[float, ...]:
        """Prefill computing, prefill KV, decode computing, decode KV, weights, all-reduces; and requests."""
        decodes = [c for q, c in batch.requests if q == 1 and c]
        prompts = [(q, q + c) for q, c in batch.requests if q > 1 or not c]
        new = sum(q for q, _ in prompts)
        pairs = sum(q * (length + q / 2) for q, length in prompts)
        return (
            self._compute_us(new, pairs),
            self._cache_us(new),
            self._compute_us(len(decodes), sum(decodes)),
            self._cache_us(sum(decodes) + len(decodes)),
            self._weights_us,
            self._reduce_us * batch.tokens,
            float(batch.count),
        )

    def _compute_us(self, tokens: int, pairs: float) -> float:
        attention = 4 * self._heads * self._head * pairs
        return self._layers * (tokens * self._token_flops + attention) / self._ranks / self._flops_us

    def _cache_us(self, tokens: int) -> float:
        return self._layers * self._kv_bytes * tokens / self._ranks / self._bytes_us


def _steps(limits: Limits) -> list[Batch]:
    """Prompts, later chunks, decodes, and chunks among decodes."""
    tokens = [n for n in doubling(limits.tokens) if n > 1]
    prompts = [[(n, 0)] * count for n in tokens for count in (1, 2, 4) if n * count <= limits.tokens]
    chunks = [[(n, n)] for n in tokens if 2 * n <= limits.context]
    decodes = [[(1, context - 1)] * count for count, context in decode_shapes(limits)]
    room = [some for some in decodes[::3] if len(some) < limits.requests]
    mixed = [[(n, 0), *some] for n in tokens[::2] for some in room if n + len(some) <= limits.tokens]
    return [Batch.of(*requests) for requests in (*prompts, *chunks, *decodes, *mixed)]
