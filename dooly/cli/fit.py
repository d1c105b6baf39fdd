"""``dooly fit``: measured points to formulas."""

from typing import Any

from dooly.cli.options import DATABASE, AsJson, Db, Platform

__all__ = ["fit"]


def fit(db: Db = DATABASE, platform: Platform = None, as_json: AsJson = False) -> None:
    """Fit formulas to the measured points.

    One for each operation and environment; stored in the database, an earlier fit is replaced.

    Example: dooly fit --db dooly.sqlite
    """
    from dooly.cli.output import Column, print_json, print_table, progress_bar, say
    from dooly.database import Status
    from dooly.errors import FitError
    from dooly.fit.store import to_json
    from dooly.workspace.formulas import fit_stored
    from dooly.workspace.store import open_database

    rows: list[dict[str, Any]] = []
    with open_database(db) as database, progress_bar("operations") as progress:
        environments = {environment.key: environment for environment in database.environments()}
        operations = {operation.signature: operation for operation in database.operations()}
        measured = [
            row
            for row in database.summary()
            if row.status is Status.OK and platform in (None, environments[row.environment].get("platform"))
        ]
        if not measured:
            where = f" on {platform}" if platform else ""
            raise FitError(f"{database.place}: no measured points{where} to fit; run `dooly profile MODEL` first")
        for row in progress.track(measured, description="fitting"):
            environment = environments[row.environment]
            try:
                formula = fit_stored(database, operations[row.signature], environment)
            except FitError as error:
                say(f"not fitted: {error}")
                continue
            database.store_formula(row.signature, environment, to_json(formula))
            rows.append(
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
            )
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
