"""Models lowered to operations: captured from a configuration, or read from an .ir file."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from dooly.errors import CaptureError
from dooly.ir import Graph, Program, read_program

__all__ = ["check_models", "lower", "model_path"]

_log = logging.getLogger(__name__)


def lower(
    models: Sequence[str],
    tp: int = 1,
    backend: str | None = None,
    platform: str | None = None,
    *,
    eager: bool = False,
    stage: tuple[int, int] = (0, 1),
    here: str = "cpu",
) -> Program:
    """All passes over the models as the engine runs them: graphs and one table of operations.

    Args:
        models: bundled names, config.json files or their folders, which are captured; or .ir files with graphs or a
            table of operations, which are read.
        tp, backend, platform, eager: of models that are captured.
        stage: which pipeline stage, counted from 0, of how many, of models that are captured.
        here: platform of models that are captured, where none is asked for.

    Raises:
        CaptureError, ParseError, PassError: a model is not usable, or an .ir file was captured otherwise.
    """
    from dooly.capture import Options, Parallel, check_read, note_of
    from dooly.passes import PIPELINE, run
    from dooly.workspace.captures import graphs_of

    rank, stages = stage
    parts: list[Program] = []
    for model in dict.fromkeys(models):
        if model.endswith(".ir"):
            parts.append(_read(model, platform, eager))
        else:
            if note := note_of(model):
                _log.info(f"note: {model} as bundled: {note}")
            options = Options(Parallel(tp, pp=stages), platform or here, backend, eager=eager)
            parts.append(Program(tuple(graph for graph in graphs_of(model, options) if _holds(graph, rank))))
    program = Program.joined(parts)
    if all(model.endswith(".ir") for model in models):
        usual = {"tp": 1, "backend": None, "stage": "0/1"}
        asked = {"tp": tp, "backend": backend, "stage": f"{rank}/{stages}"}
        check_read(program.graphs, {name: value for name, value in asked.items() if value != usual[name]})
    return run(program, PIPELINE)


def _read(model: str, platform: str | None, eager: bool) -> Program:
    """Read an .ir file, unless it says that it was captured for another platform, or not for an eager engine.

    Both also say where and how operations are timed, so a table of operations, which does not say, may have either.
    """
    program = read_program(Path(model))
    asked = {"platform": platform, "mode": "eager" if eager else None}
    for name, value in asked.items():
        for graph in program.graphs:
            if value is not None and (said := dict(graph.settings).get(name, value)) != value:
                raise CaptureError(f"{model}: captured with {name} {said}, not {value}; capture the model again")
    return program


def _holds(graph: Graph, stage: int) -> bool:
    """Whether a graph stands for this pipeline stage."""
    first, _, last = dict(graph.settings).get("stages", "0").partition("-")
    return int(first) <= stage <= int(last or first)


def check_models(models: Iterable[str]) -> None:
    """Check that there are such models, so that a mistyped name is told before anything is read or made.

    Raises:
        CaptureError: as `model_path`.
    """
    for model in models:
        if not model.endswith(".ir"):
            model_path(model)


def model_path(model: str) -> Path:
    """Return where the config.json of a model lies: a bundled name, a folder, or the file itself.

    Raises:
        CaptureError: nothing is there, or it is not the configuration of a supported model.
    """
    import dooly
    from dooly.capture import bundled_name, resolve_model

    resolve_model(model)
    name = None if Path(model).exists() else bundled_name(model)
    return Path(model) if name is None else Path(dooly.__path__[0]) / "models" / name
