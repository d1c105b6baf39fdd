"""Capture: a configuration in, the graph of one engine step out.  torch and vLLM are imported only on capture."""

from __future__ import annotations

from pathlib import Path

from dooly.capture.config import check_tensor_parallel, list_models, resolve_model
from dooly.capture.platforms import PLATFORMS, activate, check_backend
from dooly.ir import Graph

__all__ = ["PLATFORMS", "capture", "list_models", "resolve_model"]


def capture(model: str | Path, *, tp: int = 1, platform: str = "cpu", backend: str | None = None) -> Graph:
    """Graph of one step of a model as vLLM runs it: embedding, layers, logits of the rows asked for, greedy sampling.

    Built from the configuration alone: no weights, no GPU, no network.  Every dimension is an expression over
    configuration symbols (``TP`` among them where ``tp > 1``) and the request symbols ``T`` (tokens) and ``L`` (rows
    that need logits).

    Args:
        model: a bundled name, a folder with a config.json, or such a file.
        tp: tensor parallel ranks; the graph is that of one rank, with collectives as operations.
        platform: whose code is captured (``cpu``, ``h100``, ``h200``); a GPU that is absent is stood in for.
        backend: attention backend; by default what the engine picks.

    Raises:
        CaptureError: bad input, reported before anything heavy is imported, or a model that cannot be captured.
    """
    name, config = resolve_model(model)
    backend = check_backend(platform, backend)
    check_tensor_parallel(config, tp, name)
    activate(platform)
    from dooly.capture.frontend import capture_config

    return capture_config(name, config, tp=tp, platform=platform, backend=backend)
