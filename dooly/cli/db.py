"""``dooly db``: look into a latency database."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from dooly.cli.options import DATABASE, AsJson, Db
from dooly.escape import show

__all__ = ["app"]

app = typer.Typer(help="Look into latency databases, and exchange them.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def info(db: Db = DATABASE, as_json: AsJson = False) -> None:
    """Points of each operation by environment and status, and the seconds that measuring them took.

    Example: dooly db info --db dooly.sqlite
    """
    from dooly.cli.output import print_json, print_table
    from dooly.report import Column
    from dooly.workspace.store import open_database

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
    from dooly.workspace.store import open_database

    with open_database(db) as database:
        found = database.environments()
    if as_json:
        print_json([{"environment": each.key, **dict(each.facts)} for each in found])
        return
    for each in found:
        show(f"{each.key}  {each}")


@app.command()
def export(path: Annotated[Path, typer.Argument(help="Parquet file to write")], db: Db = DATABASE) -> None:
    """Write all points to one Parquet file, with the operations and environments that they belong to.

    Example: dooly db export h200.parquet --db dooly.sqlite
    """
    from dooly.database.exchange import write_parquet
    from dooly.workspace.store import open_database

    with open_database(db) as database:
        show(f"{path}: {write_parquet(database.records(), path):,d} points")


@app.command("import")
def import_(
    paths: Annotated[list[Path] | None, typer.Argument(help="Parquet files; what ships with dooly if none")] = None,
    db: Db = DATABASE,
    foreign: Annotated[
        Literal["aiconfigurator"] | None, typer.Option(help="PATH is others' measurements: the wheel or its folder")
    ] = None,
    system: Annotated[str | None, typer.Option(help="only this GPU of --foreign, e.g. b200")] = None,
) -> None:
    """Add the points of Parquet files to the database; points that are measured there already stay.

    With --foreign, add what others published, in an environment of its own that names the source.

    Example: dooly db import h200.parquet --db dooly.sqlite
    """
    from dooly.cli.output import say
    from dooly.database.exchange import read_parquet
    from dooly.errors import DatabaseError
    from dooly.workspace.foreign import add_foreign
    from dooly.workspace.store import add_shipped, open_database

    if (foreign is not None and len(paths or ()) != 1) or (foreign is None and system is not None):
        raise DatabaseError("--foreign takes one PATH, and --system goes with it; see `dooly db import --help`")
    with open_database(db, create=True) as database:
        if foreign is not None and paths:
            new = add_foreign(database, foreign, paths[0], system, say)
            show(f"{database.place}: {new:,d} new points")
            return
        new = sum(database.add_records(read_parquet(path)) for path in paths) if paths else add_shipped(database)
        show(f"{database.place}: {new:,d} new points")


@app.command()
def merge(
    sources: Annotated[list[str], typer.Argument(help="other databases: files or PostgreSQL URLs")], db: Db = DATABASE
) -> None:
    """Add the points of other databases to this one; points that are measured here already stay.

    Example: dooly db merge worker-1.sqlite worker-2.sqlite --db dooly.sqlite
    """
    from dooly.workspace.store import open_database, records_of

    with open_database(db, create=True) as database:
        new = sum(database.add_records(records_of(source)) for source in sources)
        show(f"{database.place}: {new:,d} new points")


@app.command()
def check(location: Annotated[str, typer.Argument(help="database or Parquet file")] = DATABASE) -> None:
    """Check that every point is sound; exit status 1 if not.

    Operations must parse and have the signature they are stored under; measured points must have positive samples.

    Example: dooly db check dooly.sqlite
    """
    from dooly.database import place_of
    from dooly.database.soundness import problems as problems_of
    from dooly.workspace.store import records_of

    records = records_of(location)
    problems = problems_of(records)
    for problem in problems:
        show(str(problem))
    show(f"{place_of(location)}: {len(records):,d} points, {len(problems)} problems")
    if problems:
        raise typer.Exit(1)


@app.command()
def diff(
    first: Annotated[str, typer.Argument(help="database or Parquet file")],
    second: Annotated[str, typer.Argument(help="database or Parquet file")],
    as_json: AsJson = False,
) -> None:
    """Ratios of latencies, second over first, at the points that both hold: per operation and per kind of operation.

    Whatever the environments: two days, two machines, two releases of a library.

    Example: dooly db diff monday.sqlite tuesday.sqlite
    """
    from dataclasses import asdict

    from dooly.cli.output import print_json, print_table
    from dooly.database import place_of
    from dooly.database.difference import agreement, agreement_by_target, difference
    from dooly.report import Column
    from dooly.workspace.store import records_of

    found = difference(records_of(first), records_of(second))
    rows = [{"target": each.target, "signature": each.signature, **asdict(agreement(each.ratios))} for each in found]
    kinds = [{"target": target, **asdict(each)} for target, each in agreement_by_target(found).items()]
    if as_json:
        print_json({"operations": rows, "targets": kinds})
        return
    columns = (
        Column("points", "points", ",d"),
        Column("p5", "5 %", ".3f"),
        Column("median", "median", ".3f"),
        Column("p95", "95 %", ".3f"),
        Column("within_2", "within 2 % (%)", ".0f"),
        Column("within_5", "within 5 % (%)", ".0f"),
        Column("within_10", "within 10 % (%)", ".0f"),
    )
    title = f"{place_of(second)} over {place_of(first)}: {sum(len(each.ratios) for each in found):,d} common points"
    print_table(title, (Column("target", "target"), Column("signature", "signature"), *columns), rows)
    print_table("by kind of operation", (Column("target", "target"), *columns), kinds)
