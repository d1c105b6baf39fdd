"""Options that several commands share, each written once."""

from typing import Annotated

import typer

from dooly.workspace.defaults import DATABASE

__all__ = ["DATABASE", "AsJson", "Backend", "CapturedModel", "Db", "Model", "Models", "Platform", "TensorParallel"]


def _lower(name: str | None) -> str | None:
    """A platform's name as it is stored, however it was written."""
    return None if name is None else name.lower()


_MODEL = "bundled model (`python -m dooly.passes --list`), config.json or its folder"

Model = Annotated[str, typer.Argument(help=_MODEL, show_default=False)]
CapturedModel = Annotated[str, typer.Argument(metavar="MODEL", help=f"{_MODEL}, or .ir file", show_default=False)]
Models = Annotated[list[str], typer.Argument(metavar="MODEL...", help=f"{_MODEL}, or .ir file", show_default=False)]
Db = Annotated[str, typer.Option("--db", envvar="DOOLY_DB", help="latency database: a file, or a PostgreSQL URL")]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON document instead of tables")]
TensorParallel = Annotated[int, typer.Option("--tp", "--tensor-parallel-size", help="tensor-parallel size")]
Platform = Annotated[
    str | None,
    typer.Option(
        "--platform",
        "--gpu",
        callback=_lower,
        help="stored measurements of this GPU (h100, h200, or one that `dooly db import` added) and the engine's code "
        "for it; not this machine's. NAME@SOURCE for what others published of it",
    ),
]
Backend = Annotated[
    str | None,
    typer.Option("--backend", "--attention-backend", help="attention backend; the engine's choice if not given"),
]
