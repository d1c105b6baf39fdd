"""Capture: a configuration in, the graph of one engine step out.  torch and vLLM are imported only on capture."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dooly.capture.config import bundled_name, list_models, note_of, resolve_model
from dooly.capture.options import Options, check_read
from dooly.capture.parallel import Parallel
from dooly.engine.platforms import activate
from dooly.hardware.backends import check_backend
from dooly.hardware.gpus import PLATFORMS
from dooly.ir import Graph

__all__ = [
    "PLATFORMS",
    "Options",
    "Parallel",
    "bundled_name",
    "capture",
    "capture_checked",
    "capture_stages",
    "check",
    "check_read",
    "export_checked",
    "list_models",
    "note_of",
    "load_engine",
    "resolve_model",
]


def capture(
    model: str | Path,
    *,
    tp: int = 1,
    dp: int = 1,
    expert_parallel: bool = False,
    platform: str = "cpu",
    backend: str | None = None,
    quantization: str | None = None,
    kv_cache_dtype: str | None = None,
    eager: bool = False,
) -> Graph:
    """Graph of one step of a model as vLLM runs it: embedding, layers, logits of the rows asked for, greedy sampling.

    Built from the configuration alone: no weights, no GPU, no network.  Every dimension is an expression over
    configuration symbols (``TP`` and ``DP`` among them where more than one) and the request symbols ``T`` (tokens) and
    ``L`` (rows that need logits).

    Args:
        model: a bundled name, a folder with a config.json, or such a file.
        tp: tensor-parallel ranks; the graph is that of one rank, with collectives as operations.
        dp: data-parallel ranks; tokens and requests are those of one, and all are taken to have as many tokens.
        expert_parallel: whether a rank holds whole experts of a mixture, or a slice of each.
        platform: whose code is captured (``cpu``, ``h100``, ``h200``); a GPU that is absent is stood in for.
        backend: attention backend; by default what the engine picks.
        quantization: ``fp8`` quantizes the weights of an unquantized model; on GPUs only.
        kv_cache_dtype: ``fp8`` for a KV cache of that type; on GPUs only.
        eager: what runs without compilation; otherwise the code that the engine hands to its compiler.

    Raises:
        CaptureError: bad input, reported before anything heavy is imported, or a model that cannot be captured.
    """
    parallel = Parallel(tp, dp, expert_parallel)
    (graph,) = capture_stages(model, Options(parallel, platform, backend, quantization, kv_cache_dtype, eager))
    return graph


def capture_stages(model: str | Path, options: Options) -> tuple[Graph, ...]:
    """Graphs of the distinct pipeline stages of a model, one where all layers are on one device or are split alike.

    Stages in the middle that have equal layers are one graph; ``stages`` among its settings says which it stands for
    (``1-6``).  Counts are those of one stage.  Stages receive and send what the engine hands on, as operations.

    Raises:
        CaptureError: as ``capture``.
    """
    name, config = check(model, options)
    return capture_checked(name, config, options)


def capture_checked(name: str, config: Mapping[str, Any], options: Options) -> tuple[Graph, ...]:
    """``capture_stages`` of a model that ``check`` has passed.

    Raises:
        CaptureError: the engine refuses the model, or its code does something that a graph cannot say.
    """
    load_engine(options.platform)
    from dooly.capture.frontend import capture_config

    return capture_config(name, config, options)


def export_checked(name: str, config: Mapping[str, Any]) -> Graph:
    """Graph of the ``transformers`` model of a configuration that ``check`` has passed, through ``torch.export``.

    One prompt of ``T`` tokens without a cache, logits of ``L`` of its rows.

    Raises:
        CaptureError: the library refuses the model, or its code cannot be exported.
    """
    load_engine()
    from dooly.capture.huggingface import export_config
    from dooly.capture.time_limit import limited

    with limited(name):
        return export_config(name, config)


def check(model: str | Path, options: Options) -> tuple[str, dict[str, Any]]:
    """Name and configuration of a model that can run with ``options``; nothing heavy is imported.

    Raises:
        CaptureError: bad input.
    """
    name, config = resolve_model(model)
    options.check(config, name)
    return name, config


def load_engine(platform: str = "cpu") -> None:
    """Import torch and vLLM as they are on ``platform``, which ``capture`` otherwise does when first called.

    Raises:
        CaptureError: unknown platform, vLLM is not installed, or it is set up for another platform in this process.
    """
    check_backend(platform, None)
    activate(platform)
    importlib.import_module("dooly.capture.frontend")
