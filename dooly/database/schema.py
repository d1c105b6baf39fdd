"""Tables, their version, and the steps that bring an older file up to date.

History of the schema, newest last:
    1  environments, operations, points, formulas, meta
"""

from collections.abc import Callable

from sqlalchemy import (
    Column,
    Connection,
    Float,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    insert,
    inspect,
    select,
    update,
)

from dooly.errors import DatabaseError

__all__ = [
    "APPLICATION",
    "SCHEMA_VERSION",
    "environments",
    "formulas",
    "meta",
    "operations",
    "points",
    "schema_version",
    "upgrade",
]

APPLICATION = "dooly latency database"
SCHEMA_VERSION = 1

tables = MetaData()

meta = Table("meta", tables, Column("name", String(40), primary_key=True), Column("value", Text, nullable=False))

environments = Table(
    "environments",
    tables,
    Column("id", Integer, primary_key=True),
    Column("key", String(40), nullable=False, unique=True),
    Column("facts", Text, nullable=False),
)

operations = Table(
    "operations",
    tables,
    Column("id", Integer, primary_key=True),
    Column("signature", String(64), nullable=False, unique=True),
    Column("target", String(80), nullable=False),
    Column("text", Text, nullable=False),
)

points = Table(
    "points",
    tables,
    Column("id", Integer, primary_key=True),
    Column("operation", Integer, ForeignKey("operations.id"), nullable=False),
    Column("environment", Integer, ForeignKey("environments.id"), nullable=False),
    Column("point", Text, nullable=False),
    Column("status", String(10), nullable=False),
    Column("reason", Text),
    Column("samples_us", Text),
    Column("warmups_us", Text),
    Column("loops", Integer),
    Column("aside", Text),
    Column("clock_mhz", Float),
    Column("temperature_c", Float),
    Column("owner", Text, nullable=False),
    Column("started_s", Float, nullable=False),
    Column("finished_s", Float),
    UniqueConstraint("operation", "environment", "point", name="one_row_per_point"),
)

formulas = Table(
    "formulas",
    tables,
    Column("id", Integer, primary_key=True),
    Column("operation", Integer, ForeignKey("operations.id"), nullable=False),
    Column("environment", Integer, ForeignKey("environments.id"), nullable=False),
    Column("formula", Text, nullable=False),
    UniqueConstraint("operation", "environment", name="one_formula_per_operation"),
)


def _create(connection: Connection) -> None:
    tables.create_all(connection)
    rows = {"application": APPLICATION, "schema_version": "1"}
    connection.execute(insert(meta), [{"name": name, "value": value} for name, value in rows.items()])


_MIGRATIONS: tuple[Callable[[Connection], None], ...] = (_create,)
"""Step i brings version i to version i + 1; an empty file has version 0.  Append only."""


def schema_version(connection: Connection, place: str) -> int:
    """Version found; 0 for an empty database.

    Raises:
        DatabaseError: the database belongs to something else, or to a newer dooly, or a table is missing.
    """
    present = set(inspect(connection).get_table_names())
    if not present:
        return 0
    known: dict[str, str] = {}
    columns = (
        {column["name"] for column in inspect(connection).get_columns("meta")} if "meta" in present else set[str]()
    )
    if columns == {"name", "value"}:
        known = {row.name: row.value for row in connection.execute(select(meta))}
    written = str(known.get("schema_version"))
    if known.get("application") != APPLICATION or not (written.isascii() and written.isdigit() and len(written) < 10):
        raise DatabaseError(
            f"{place}: a database, but not one of dooly (it holds {', '.join(sorted(present)[:4])}); name another file"
        )
    version = int(written)
    if version > SCHEMA_VERSION:
        raise DatabaseError(
            f"{place}: written by a newer dooly (schema {version}, this one reads up to {SCHEMA_VERSION}); upgrade"
        )
    missing = set(tables.tables) - present
    if missing:
        raise DatabaseError(f"{place}: without the tables {', '.join(sorted(missing))}; restore the file from a copy")
    return version


def upgrade(connection: Connection, place: str) -> None:
    """Create or upgrade the tables inside the caller's transaction; does nothing if another process was quicker.

    Raises:
        DatabaseError: as `schema_version`.
    """
    version = schema_version(connection, place)
    for step in _MIGRATIONS[version:]:
        step(connection)
    connection.execute(update(meta).where(meta.c.name == "schema_version").values(value=str(SCHEMA_VERSION)))
