"""Capture: a configuration in, the graph of one engine step out.  torch and vLLM are imported only on capture."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from dooly.capture.config import list_models, resolve_model
from dooly.capture.parallel import Parallel
from dooly.capture.platforms import PLATFORMS, activate, check_backend
from dooly.ir import Graph

__all__ = ["PLATFORMS", "capture", "check", "list_models", "load_engine", "resolve_model"]


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
    name, config, backend = check(model, tp=tp, platform=platform, backend=backend)
    load_engine(platform)
    from dooly.capture.frontend import capture_config

    return capture_config(name, config, parallel=Parallel(tp), platform=platform, backend=backend)


def check(
    model: str | Path, *, tp: int = 1, platform: str = "cpu", backend: str | None = None
) -> tuple[str, dict[str, Any], str | None]:
    """Name, configuration and backend of a capture, checked without importing anything heavy; arguments as there.

    Raises:
        CaptureError: bad input.
    """
    name, config = resolve_model(model)
    backend = check_backend(platform, backend)
    Parallel(tp).check(config, name)
    return name, config, backend


def load_engine(platform: str = "cpu") -> None:
    """Import torch and vLLM as they are on ``platform``, which ``capture`` otherwise does when first called.

    Raises:
        CaptureError: unknown platform, vLLM is not installed, or it is set up for another platform in this process.
    """
    check_backend(platform, None)
    activate(platform)
    importlib.import_module("dooly.capture.frontend")
