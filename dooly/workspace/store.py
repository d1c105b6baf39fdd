"""Opening the latency database for the duration of a command, with or without what ships with dooly."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dooly.database import Known, NoPoints, Record
from dooly.database.exchange import read_parquet, shipped_files

if TYPE_CHECKING:
    from dooly.database import Database

__all__ = ["add_shipped", "look_into", "open_database", "open_or_empty", "records_of"]


@contextmanager
def open_database(location: str, *, create: bool = False) -> "Generator[Database]":
    """The database for the duration of a command.

    Raises:
        DatabaseError: it is missing (unless it may be created), locked, or not a database of dooly.
    """
    from dooly.database import Database

    database = Database(location, create=create)
    try:
        yield database
    finally:
        database.close()


@contextmanager
def open_or_empty(location: str) -> "Generator[Database]":
    """The database for the duration of a command; an empty one in place of a file that does not exist.

    Raises:
        DatabaseError: there is a database, but it is locked or not one of dooly.
    """
    with open_database("sqlite://" if _is_missing(location) else location) as database:
        yield database


def _is_missing(location: str) -> bool:
    return "://" not in location and not Path(location).exists()


@contextmanager
def look_into(location: str) -> Generator[Known]:
    """Open all that is known, for a command that only looks: the database, if there is one, and what ships.

    Raises:
        DatabaseError: there is a database, but it is locked or not one of dooly.
    """
    if _is_missing(location):
        yield Known(NoPoints(location), shipped_files())
        return
    with open_database(location) as database:
        yield Known(database, shipped_files())


def add_shipped(database: "Database") -> int:
    """Add the measurements that come with dooly; returns how many were new."""
    return sum(database.add_records(read_parquet(path)) for path in shipped_files())


def records_of(location: str) -> list[Record]:
    """All points of a Parquet file, or of a database.

    Raises:
        DatabaseError: it is missing or holds something else.
    """
    if location.endswith(".parquet"):
        return list(read_parquet(Path(location)))
    with open_database(location) as database:
        return database.records()
