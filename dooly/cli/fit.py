"""``dooly fit``: measured points to formulas."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dooly.cli.options import DATABASE, AsJson, Db, Platform

if TYPE_CHECKING:
    from dooly.database import Database, Environment
    from dooly.fit import Formula

__all__ = ["fit", "fit_measured"]


def fit(db: Db = DATABASE, platform: Platform = None, as_json: AsJson = False) -> None:
    """Fit formulas to the measured points, as `dooly profile` does with those that it takes.

    One for each operation and environment; stored in the database, an earlier fit is replaced.

    Example: dooly fit --db dooly.sqlite
    """
    from dooly.cli.output import Column, print_json, print_table
    from dooly.database import Status
    from dooly.errors import FitError
    from dooly.workspace.store import open_database

    with open_database(db) as database:
        environments = {environment.key: environment for environment in database.environments()}
        measured = [
            row
            for row in database.summary()
            if row.status is Status.OK and platform in (None, environments[row.environment].get("platform"))
        ]
        if not measured:
            where = f" on {platform}" if platform else ""
            raise FitError(f"{database.place}: no measured points{where} to fit; run `dooly profile MODEL` first")
        found = fit_measured(database, [(row.signature, environments[row.environment]) for row in measured])
    rows: list[dict[str, Any]] = [
        {
            "operation": formula.name,
            "signature": formula.signature,
            "environment": environment.key,
            "points": formula.held.points,
            "held_out_error_percent": 100 * formula.held.mape,
            "symbolic_error_percent": 100 * formula.held.symbolic_mape,
            "noise_percent": 100 * formula.held.noise,
            "worst_error_percent": 100 * formula.held.worst_error,
            "worst_point": formula.held.worst_point,
        }
        for formula, environment in found
    ]
    if as_json:
        print_json(rows)
        return
    columns = (
        Column("operation", "operation"),
        Column("environment", "environment"),
        Column("points", "points", ",d"),
        Column("held_out_error_percent", "held-out error (%)", ".1f"),
        Column("symbolic_error_percent", "without residual (%)", ".1f"),
        Column("noise_percent", "noise (%)", ".1f"),
        Column("worst_error_percent", "worst (%)", "+.1f"),
        Column("worst_point", "at"),
    )
    print_table(f"{len(rows)} formulas fitted", columns, rows)


def fit_measured(
    database: "Database", measured: "Sequence[tuple[str, Environment]]"
) -> "list[tuple[Formula, Environment]]":
    """Fit operations, and parts of host time, given by signature and environment, and store the formulas.

    What cannot be fitted is said and left out.
    """
    from dooly.cli.output import progress_bar, say
    from dooly.errors import FitError
    from dooly.fit.store import to_json
    from dooly.workspace.formulas import fit_stored

    operations = {operation.signature: operation for operation in database.operations()}
    found: list[tuple[Formula, Environment]] = []
    with progress_bar("operations") as progress:
        for signature, environment in progress.track(measured, description="fitting"):
            try:
                formula = fit_stored(database, operations[signature], environment)
            except FitError as error:
                say(f"not fitted: {error}")
                continue
            database.store_formula(signature, environment, to_json(formula))
            found.append((formula, environment))
    return found
