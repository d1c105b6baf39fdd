"""Captured graphs that need no engine: those of bundled models ship, and those captured by this user before are kept.

A shipped graph is that of a configuration as a GPU runs it with the engine's own choices.  A kept one is that of any
options, and belongs to the code that captured it, the engine's release, and on a CPU to the processor.
"""

import logging
import os
import zipfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from dooly.capture import Options, Parallel, capture_checked, check
from dooly.errors import DoolyError
from dooly.files import write_text
from dooly.hardware.gpus import PLATFORMS
from dooly.hardware.processor import cpuinfo
from dooly.hardware.software import ENGINES, engine_release, installed
from dooly.ir import Graph, Program, read_program
from dooly.ir.parser import parse_program
from dooly.workspace.digest import digest, source_digest
from dooly.workspace.shipped import DATA

__all__ = ["CACHE", "CAPTURED_ON", "CAPTURES", "SIZES", "graphs_of", "kept_at", "shipped_graph", "write_captures"]

_log = logging.getLogger(__name__)

CACHE = Path(os.environ.get("DOOLY_CACHE") or user_cache_path("dooly"))
"""The folder of graphs captured by this user."""

CAPTURES = DATA / "captures.zip"
CAPTURED_ON = "h200"
"""The GPU whose code ships; GPUs of one compute capability run the same."""
SIZES = (1, 2, 4, 8)
"""Tensor-parallel sizes of the graphs that ship."""
_CODE = ("capture", "engine", "hardware", "ir")
"""Packages of dooly that decide what a capture gives."""


def graphs_of(model: str, options: Options) -> tuple[Graph, ...]:
    """Graphs of the distinct pipeline stages of a model, as `capture_stages`; the engine runs where none are at hand.

    Raises:
        CaptureError: bad input, or a model that cannot be captured.
    """
    name, config = check(model, options)
    if (shipped := shipped_graph(name, config, options)) is not None:
        return (shipped,)
    path = kept_at(name, config, options)
    with suppress(OSError, DoolyError):  # absent or damaged: captured again
        return read_program(path).graphs
    _log.info(f"capturing {model}")
    graphs = capture_checked(name, config, options)
    with suppress(OSError, DoolyError):  # a folder that cannot be written costs time only
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, str(Program(graphs)))
    return graphs


def shipped_graph(name: str, config: Mapping[str, Any], options: Options) -> Graph | None:
    """The shipped graph of a checked configuration; None if there is none for these options and the installed engine.

    Without an engine, that of the release that it was captured with.
    """
    usual = Options(Parallel(options.parallel.tp), options.platform, options.backend)
    known = PLATFORMS[options.platform].capability == PLATFORMS[CAPTURED_ON].capability
    if options != usual or not known or not CAPTURES.exists():
        return None
    with zipfile.ZipFile(CAPTURES) as archive:
        entry = _entry(config, options.parallel.tp)
        if entry not in archive.namelist():
            return None
        (graph,) = parse_program(archive.read(entry).decode()).graphs
    settings = dict(graph.settings)
    release = installed(*ENGINES)
    if options.backend not in (None, settings["backend"]) or (release and settings["engine"] != f"vllm {release}"):
        return None
    settings["platform"] = options.platform
    return replace(graph, name=name, settings=tuple(settings.items()))


def write_captures(graphs: Iterable[tuple[Mapping[str, Any], int, Graph]]) -> None:
    """Write what ships: graphs with their checked configurations and tensor-parallel sizes."""
    with zipfile.ZipFile(CAPTURES, "w") as archive:
        for config, tp, graph in graphs:
            entry = zipfile.ZipInfo(_entry(config, tp))  # of no date, so that equal graphs are equal files
            archive.writestr(entry, str(Program((graph,))), zipfile.ZIP_DEFLATED, 9)


def _entry(config: Mapping[str, Any], tp: int) -> str:
    return f"{digest(config)}-tp{tp}.ir"


def kept_at(name: str, config: Mapping[str, Any], options: Options) -> Path:
    """Return where the graphs of a checked configuration are kept for this user."""
    processor = "" if PLATFORMS[options.platform].is_cuda else cpuinfo().get("flags", "")
    release = engine_release(), installed("torch")
    return CACHE / f"{digest([name, config, repr(options), *release, processor, source_digest(*_CODE)])}.ir"
