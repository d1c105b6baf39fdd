"""``dooly db``: look into a latency database."""

from typing import Any

import typer

from dooly.cli.options import DATABASE, AsJson, Db

__all__ = ["app"]

app = typer.Typer(help="Look into a latency database.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def info(db: Db = DATABASE, as_json: AsJson = False) -> None:
    """Points of each operation by environment and status, and the seconds that measuring them took.

    Example: dooly db info --db dooly.sqlite
    """
    from dooly.cli.output import Column, print_json, print_table
    from dooly.cli.store import open_database

    with open_database(db) as database:
        rows: list[dict[str, Any]] = [
            {
                "environment": row.environment,
                "signature": row.signature,
                "target": row.target,
                "status": row.status.value,
                "points": row.points,
                "cost_s": row.cost_s,
            }
            for row in database.summary()
        ]
        place = database.place
    if as_json:
        print_json(rows)
        return
    columns = (
        Column("environment", "environment"),
        Column("target", "target"),
        Column("signature", "signature"),
        Column("status", "status"),
        Column("points", "points", ",d"),
        Column("cost_s", "cost (s)", ",.2f"),
    )
    total = sum(row["cost_s"] for row in rows)
    print_table(f"{place}: {sum(row['points'] for row in rows):,d} points, {total:,.1f} s of measuring", columns, rows)


@app.command()
def environments(db: Db = DATABASE, as_json: AsJson = False) -> None:
    """The environments in which points were taken, fact by fact.

    Example: dooly db environments
    """
    from dooly.cli.output import print_json
    from dooly.cli.store import open_database

    with open_database(db) as database:
        found = database.environments()
    if as_json:
        print_json([{"environment": each.key, **dict(each.facts)} for each in found])
        return
    for each in found:
        print(f"{each.key}  {each}")
