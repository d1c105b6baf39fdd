"""``dooly fit``: measured points to formulas."""

from typing import Any

from dooly.cli.options import DATABASE, AsJson, Db, Platform

__all__ = ["fit"]


def fit(db: Db = DATABASE, platform: Platform = None, as_json: AsJson = False) -> None:
    """Fit formulas to the measured points, as `dooly profile` does with those that it takes.

    One for each operation and environment; stored in the database, an earlier fit is replaced.

    Example: dooly fit --db dooly.sqlite
    """
    from dooly.cli.output import print_json, print_table, tracked
    from dooly.database import Status
    from dooly.errors import FitError
    from dooly.report import Column
    from dooly.workspace.measuring import fit_measured
    from dooly.workspace.store import open_database

    with open_database(db) as database:
        environments = {environment.key: environment for environment in database.environments()}
        measured = [
            row
            for row in database.summary()
            if row.status is Status.OK
            and platform in (None, environments[row.environment].get("platform"))
            and not environments[row.environment].source
        ]
        if not measured:
            where = f" on {platform}" if platform else ""
            raise FitError(f"{database.place}: no measured points{where} to fit; run `dooly profile MODEL` first")
        places = [(row.signature, environments[row.environment]) for row in measured]
        found = fit_measured(database, places, tracked("operations", "fitting"))
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
