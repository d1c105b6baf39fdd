"""``dooly ledger``: what measuring cost, what a fixed grid would have cost, and how good the formulas of each are."""

from typing import Annotated

import typer

from dooly.cli.options import AsJson
from dooly.escape import show

__all__ = ["ledger"]


def ledger(
    platform: Annotated[str, typer.Option("--platform", help="GPU whose measurements ship (h100, h200)")] = "h200",
    backend: Annotated[str | None, typer.Option("--backend", help="one attention backend; all if not given")] = None,
    errors: Annotated[bool, typer.Option(help="also fit both ways' points and judge them by held-out ones")] = True,
    as_json: AsJson = False,
) -> None:
    """GPU-seconds of measuring: a fixed grid model by model, the same grid deduplicated, and the adaptive sweep.

    From what ships with dooly, for the models that were measured, in the order of the table. Then, for operations that
    were measured both ways, the errors of formulas fitted on either at held-out points.

    Example: dooly ledger --platform h200
    """
    from dooly.cli.output import print_json, print_table, tracked
    from dooly.evaluate.ledger_report import ledger_of

    found = ledger_of(platform, backend, errors=errors, track=tracked("operations", "fitting"))
    if as_json:
        print_json(found.document())
        return
    for table in found.tables():
        print_table(table.title, table.columns, table.rows)
        if table.note:
            show(table.note)
