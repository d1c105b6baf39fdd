"""NVIDIA Dynamo, mocker and replay (ai-dynamo 1.2.1): an NPZ file of five arrays, times in ms."""

import io
from pathlib import Path

import numpy as np

from dooly.adapters.grid import Limits, Outside, step_ms
from dooly.adapters.serving import Forecast
from dooly.batch import Batch, StepCost
from dooly.files import write_bytes
from dooly.predict import SavedModel

__all__ = ["write_npz"]

_POINTS = 100
"""Along each axis, as Dynamo's own converter writes, and ten times as many prompts."""


def write_npz(model: SavedModel, path: Path, limits: Limits) -> Outside:
    """Write the file that Dynamo reads as ``planner_profile_data``.

    - ``prefill_isl`` float64[n], ``prefill_ttft_ms`` float64[n]: one prompt on an idle engine, in chunks of
      `limits.tokens`;
    - ``decode_active_kv_tokens`` float64[k], ``decode_context_length`` float64[c], ``decode_itl`` float64[k, c] in ms:
      a step of kv / context requests of that context, at least one and at most `limits.requests`.

    Raises:
        PredictError: the model is a pipeline stage.
    """
    model.check_whole("Dynamo")
    outside = Outside()
    prompts = np.unique(np.linspace(1, limits.context, 10 * _POINTS).round().astype(int))
    forecast = Forecast(_Noting(model, outside), limits.tokens, limits.requests)
    contexts = np.unique(np.linspace(min(16, limits.context), limits.context, _POINTS).round().astype(int))
    active = np.linspace(0, limits.requests * limits.context, _POINTS)
    batches = [
        Batch.of(*[(1, int(context) - 1)] * int(np.clip(round(kv / context), 1, limits.requests)))
        for kv in active
        for context in contexts
    ]
    content = io.BytesIO()
    np.savez(
        content,
        prefill_isl=prompts.astype(np.float64),
        prefill_ttft_ms=np.array([1e3 * forecast.ttft_s(int(prompt)) for prompt in prompts]),
        decode_active_kv_tokens=active,
        decode_context_length=contexts.astype(np.float64),
        decode_itl=step_ms(model, batches, outside).reshape(len(active), len(contexts)),
    )
    write_bytes(path, content.getvalue())
    return outside


class _Noting:
    """Step times of a model; extrapolated ones are noted."""

    def __init__(self, model: SavedModel, outside: Outside) -> None:
        self._steps, self._outside = model.steps, outside

    def step_time(self, batch: Batch) -> StepCost:
        cost = self._steps.step_time(batch)
        self._outside.note(batch, cost.extrapolated)
        return cost
