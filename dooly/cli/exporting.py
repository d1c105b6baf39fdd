"""Shared parts of the targets of ``dooly export``: where step times come from, how large tables become, talk."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from dooly.cli.options import DATABASE, Backend, Db, Platform, TensorParallel
from dooly.cli.planning import Context, RequestsPerStep, TokensPerStep
from dooly.errors import PredictError

if TYPE_CHECKING:
    from dooly.adapters.coefficients import Projection
    from dooly.adapters.grid import Limits, Outside
    from dooly.predict import SavedModel

__all__ = ["Folder", "Hardware", "Output", "Written", "target"]

Output = Annotated[Path, typer.Option("--output", "-o", help="file to write", show_default=False)]
Folder = Annotated[Path, typer.Option("--output", "-o", help="folder to write into", show_default=False)]
Hardware = Annotated[str, typer.Option(help="name of the device in the simulator's configuration", show_default=False)]

_Source = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="bundled model, config.json or its folder, .ir file; or .json from `dooly export steps`",
        show_default=False,
    ),
]
_Stage = Annotated[
    str,
    typer.Option("--stage", metavar="K/N", help="pipeline stage K of N instead of the whole model; the first is 0"),
]
_EngineBlock = Annotated[
    int | None, typer.Option(help="tokens in one KV cache block; the engine's or the stored one if not given")
]


@dataclass(frozen=True)
class Written:
    """The report of a target of ``dooly export``.

    Attributes:
        paths: written.
        outside: steps beyond the measured sizes.
        projections: of formulas that had to follow step times.
        notes: further lines.
    """

    paths: Sequence[Path]
    outside: "Outside | None" = None
    projections: Sequence["Projection"] = ()
    notes: Sequence[str] = ()


_KEYWORD = inspect.Parameter.KEYWORD_ONLY
_SOURCE = {
    "db": (Db, DATABASE),
    "tp": (TensorParallel, 1),
    "platform": (Platform, None),
    "backend": (Backend, None),
    "block_size": (_EngineBlock, None),
    "stage": (_Stage, "0/1"),
}
"""Options that say where step times come from, with defaults."""

_SIZES = {"max_tokens": (TokensPerStep, 512), "max_requests": (RequestsPerStep, 16), "max_context": (Context, 2048)}
"""How large tables become, with defaults."""


def target(app: typer.Typer) -> Callable[[Callable[..., Written]], Callable[..., Written]]:
    """Make a command of a function whose first parameter is ``saved``, the step times.

    In the command MODEL and the options that say whose times those are stand for ``saved``, and three sizes for a
    parameter ``limits``; all other parameters are options of the target itself.
    """

    def register(function: Callable[..., Written]) -> Callable[..., Written]:
        own = dict(inspect.signature(function, eval_str=False).parameters)
        wants_limits = "limits" in own
        parameters = [inspect.Parameter("model", _KEYWORD, annotation=_Source)]
        parameters += [each.replace(kind=_KEYWORD) for name, each in own.items() if name not in ("saved", "limits")]
        shared = {**(_SIZES if wants_limits else {}), **_SOURCE}
        parameters += [
            inspect.Parameter(name, _KEYWORD, annotation=option, default=default)
            for name, (option, default) in shared.items()
        ]

        def run(model: str, **given: Any) -> None:
            from dooly.adapters.grid import Limits

            limits = Limits(*(given.pop(name) for name in _SIZES)) if wants_limits else None
            saved = _load(model, {name: given.pop(name) for name in _SOURCE})
            sizes = {} if limits is None else {"limits": _within_context(limits, saved)}
            _tell(saved, function(saved, **sizes, **given))

        cast(Any, run).__signature__ = inspect.Signature(parameters)
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        run.__doc__ = function.__doc__
        app.command(function.__name__)(run)
        return function

    return register


def _within_context(limits: "Limits", saved: "SavedModel") -> "Limits":
    """The limits with contexts that the model has; says where that is less."""
    from dooly.cli.output import say
    from dooly.workspace.limits import context_of

    if limits.context <= (most := context_of(saved)):
        return limits
    say(f"note: contexts up to {most:,d} tokens, those of {saved.name}, not {limits.context:,d}")
    return replace(limits, context=most)


def _load(model: str, source: dict[str, Any]) -> "SavedModel":
    """From a file of step times, or from the database.

    Raises:
        DoolyError: neither gives them.
    """
    from dooly.cli.output import say
    from dooly.predict import SavedModel

    if not model.endswith(".json") or Path(model).name == "config.json":
        from dooly.workspace.models import saved_model

        stage = _read_stage(source["stage"])
        return saved_model(
            model, source["db"], source["backend"], source["block_size"], source["tp"], source["platform"], stage
        )
    given = [name for name, (_, default) in _SOURCE.items() if name != "db" and source[name] != default]
    if given:
        raise PredictError(
            f"{model} holds step times already: --{given[0].replace('_', '-')} belongs to `dooly export steps`, "
            "which wrote it"
        )
    saved = SavedModel.load(model)
    if saved.device_only:
        say(f"note: {saved.name} on {saved.device}: device time only, host time is not measured")
    return saved


def _read_stage(text: str) -> tuple[int, int]:
    """Stage K and number N of stages of K/N.

    >>> _read_stage("1/2")
    (1, 2)

    Raises:
        PredictError: there is no such stage.
    """
    rank, _, stages = text.partition("/")
    if not (rank.isdecimal() and stages.isdecimal() and int(rank) < int(stages)):
        raise PredictError(f"--stage {text}: expected K/N, pipeline stage K of N, the first is 0: 0/2")
    return int(rank), int(stages)


def _tell(saved: "SavedModel", written: Written) -> None:
    """Say what was written and how far to trust it."""
    from dooly.cli.output import say

    profiled = "stages.ir" if saved.is_stage else saved.name
    for projection in written.projections:
        say(str(projection))
    if written.outside is not None and (message := written.outside.message(profiled)):
        say(message)
    for path in written.paths:
        say(f"wrote {path}")
    for note in written.notes:
        say(note)
