"""The commands, in the order in which they are used."""

import typer

from dooly import __version__
from dooly.cli import db, export
from dooly.cli.bench import bench
from dooly.cli.coverage import coverage
from dooly.cli.explore import explore
from dooly.cli.fit import fit
from dooly.cli.formulas import formulas
from dooly.cli.kernels import kernels
from dooly.cli.ledger import ledger
from dooly.cli.plan import plan
from dooly.cli.predict import predict
from dooly.cli.profile import profile
from dooly.cli.provenance import verify_provenance
from dooly.cli.record import record
from dooly.cli.simulate import simulate
from dooly.cli.validate import validate
from dooly.escape import show

__all__ = ["app"]

app = typer.Typer(
    help="Compiler-style analysis of LLM inference: operations measured once, readable formulas, simulated serving.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        show(f"dooly {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="print the version"),
) -> None:
    """Compiler-style analysis of LLM inference: operations measured once, readable formulas, simulated serving."""


_COMMANDS = (
    coverage,
    plan,
    profile,
    fit,
    formulas,
    predict,
    simulate,
    bench,
    record,
    validate,
    explore,
    verify_provenance,
)
_REPORTS = (ledger, kernels)

for _command in _COMMANDS + _REPORTS:
    app.command()(_command)
app.add_typer(export.app, name="export")
app.add_typer(db.app, name="db")
