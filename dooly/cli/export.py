"""``dooly export``: step times in the files of other simulators."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dooly.cli.options import DATABASE, Backend, Db, TensorParallel
from dooly.cli.serving import BlockSize

if TYPE_CHECKING:
    from dooly.predict import SavedModel

__all__ = ["app"]

app = typer.Typer(
    help="Write step times for other simulators; each target's --help names its version, files and units.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Source = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="bundled model, config.json or its folder, .ir file; or .json from `dooly export steps`",
        show_default=False,
    ),
]
Output = Annotated[Path, typer.Option("--output", "-o", help="file to write", show_default=False)]


@app.command()
def steps(
    model: Source,
    output: Output,
    db: Db = DATABASE,
    tp: TensorParallel = 1,
    backend: Backend = None,
    block_size: BlockSize = 32,
) -> None:
    """Everything that predictions of one model need, as one JSON file.

    For programs that run without the engine and without the database: `python -m dooly.adapters.vidur FILE`, the
    Python interface in `dooly.adapters.serving`, and all other targets of this command.

    Example: dooly export steps tiny-llama -o tiny-llama.json
    """
    from dooly.cli.output import say

    _load(model, db, tp, backend, block_size).save(output)
    say(f"wrote {output}")


def _load(model: str, db: str, tp: int = 1, backend: str | None = None, block_size: int = 32) -> "SavedModel":
    """From a file of step times, or from the database.

    Raises:
        DoolyError: neither gives them.
    """
    from dooly.predict import SavedModel

    if model.endswith(".json") and Path(model).name != "config.json":
        return SavedModel.load(model)
    from dooly.cli.knowledge import saved_model

    return saved_model(model, db, backend, block_size, tp)
