"""Opening the latency database for the duration of a command; where there is none yet, what ships with dooly."""

import logging
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from dooly.database import Database, Record
from dooly.database.exchange import read_parquet, shipped_files

__all__ = ["add_shipped", "look_into", "open_database", "records_of"]

_log = logging.getLogger(__name__)


@contextmanager
def open_database(location: str, *, create: bool = False) -> Generator[Database]:
    """The database for the duration of a command.

    Raises:
        DatabaseError: it is missing (unless it may be created), locked, or not a database of dooly.
    """
    database = Database(location, create=create)
    try:
        yield database
    finally:
        database.close()


@contextmanager
def look_into(location: str) -> Generator[Database]:
    """Like `open_database` for commands that only look: instead of a file that does not exist, the shipped data."""
    missing = "://" not in location and not Path(location).exists()
    with open_database("sqlite://" if missing else location) as database:
        if missing:
            _log.info(f"{location} does not exist yet: only what ships with dooly is known")
            add_shipped(database)
        yield database


def add_shipped(database: Database) -> int:
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
