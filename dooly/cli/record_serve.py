"""``dooly record --serve``: the API server of vLLM under a ladder of loads."""

from collections.abc import Sequence
from pathlib import Path

import typer

from dooly.cli.output import say
from dooly.engine.loads import Load
from dooly.errors import SimulationError
from dooly.evaluate import LADDER, Served, read_ladder, record_served, save_served
from dooly.workspace.lowering import model_path

__all__ = ["check_options", "record_loads"]

_OWN = frozenset({"model", "output", "traces", "serve", "loads", "ladder", "repeats"})


def check_options(context: typer.Context) -> None:
    """Make sure that no option is given that --serve would not heed.

    Raises:
        SimulationError: one is.
    """
    given = (name for name in context.params if (source := context.get_parameter_source(name)) and _chosen(source.name))
    for name in given:
        if name not in _OWN:
            raise SimulationError(
                f"--{name.replace('_', '-')} is not of --serve; the server takes vLLM's own flags after --, "
                "e.g. dooly record MODEL --serve -o FILE -- --max-num-seqs 64"
            )


def _chosen(source: str) -> bool:
    return source in ("COMMANDLINE", "ENVIRONMENT")


def record_loads(
    model: str, flags: Sequence[str], loads: str | None, ladder: Path | None, repeats: int, output: Path
) -> None:
    """Record the chosen loads into a file, which is written anew after each.

    Raises:
        SimulationError: a load is unknown, or the server does not start.
    """

    def keep(served: Served) -> None:
        save_served(served, output)

    chosen = _chosen_loads(read_ladder(ladder) if ladder is not None else LADDER, loads)
    record_served(model_path(model), tuple(flags), chosen, repeats=repeats, keep=keep, note=say)


def _chosen_loads(ladder: Sequence[Load], names: str | None) -> list[Load]:
    if names is None:
        return list(ladder)
    known = {load.name: load for load in ladder}
    unknown = [name for name in names.split(",") if name not in known]
    if unknown:
        raise SimulationError(f"--loads: no load {unknown[0]!r}; there are {', '.join(known)}")
    return [known[name] for name in names.split(",")]
