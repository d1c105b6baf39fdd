"""Opening the latency database for the duration of a command."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from dooly.cli.output import say
from dooly.database import Database

__all__ = ["look_into", "open_database"]


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
    """Like `open_database` for commands that only look: a file that does not exist counts as empty and is not made."""
    missing = "://" not in location and not Path(location).exists()
    if missing:
        say(f"{location} does not exist yet: nothing is measured")
    with open_database("sqlite://" if missing else location) as database:
        yield database
