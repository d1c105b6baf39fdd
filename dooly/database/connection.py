"""Open a database by path or URL, and say in one line what went wrong with it."""

import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from dooly.errors import DatabaseError

__all__ = ["connect", "decoding", "location_url", "place_of", "translated", "use_write_ahead_log"]


def location_url(location: str | Path) -> URL:
    """A path becomes an SQLite URL; anything with `://` is a URL already.

    Raises:
        DatabaseError: the URL cannot be read.
    """
    if isinstance(location, Path) or "://" not in location:
        return URL.create("sqlite", database=str(location))
    try:
        return make_url(location)
    except (ArgumentError, ValueError) as error:
        raise DatabaseError(
            f"{location}: not a database URL; expected a file path or e.g. postgresql+psycopg://user@host/name"
        ) from error


def place_of(url: URL) -> str:
    """How messages name the database: the path of a file, the URL without its password otherwise."""
    if url.get_backend_name() == "sqlite" and url.database:
        return url.database
    return url.render_as_string(hide_password=True)


def connect(url: URL, *, create: bool, lock_timeout_s: float) -> Engine:
    """An engine whose transactions begin with a write lock on SQLite, so that two writers queue up instead of failing.

    Args:
        create: whether a missing SQLite file may be made.
        lock_timeout_s: how long to wait for another process's lock.

    Raises:
        DatabaseError: the folder or file is missing, or no driver for this URL is installed.
    """
    sqlite = url.get_backend_name() == "sqlite"
    if sqlite and url.database and not url.database.startswith("file:") and url.database != ":memory:":
        _check_file(Path(url.database), create)
    arguments: dict[str, object] = {"timeout": lock_timeout_s} if sqlite else {}
    try:
        engine = create_engine(url, connect_args=arguments)
    except (NoSuchModuleError, ModuleNotFoundError, ArgumentError) as error:
        raise DatabaseError(
            f"{place_of(url)}: no driver for {url.drivername!r} is installed; install it or name an SQLite file"
        ) from error
    if sqlite:
        _take_over_transactions(engine)
    return engine


def _check_file(path: Path, create: bool) -> None:
    if not path.parent.is_dir():
        raise DatabaseError(f"{path}: the directory {path.parent} does not exist; create it first")
    if path.is_dir():
        raise DatabaseError(f"{path}: is a directory; name a file in it")
    if not create and not path.exists():
        raise DatabaseError(f"{path}: no such database; `dooly profile` creates one")


def _take_over_transactions(engine: Engine) -> None:
    """Let SQLAlchemy, not the driver, open SQLite transactions (the driver would delay them until the first write)."""

    def leave_to_us(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None

    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    event.listen(engine, "connect", leave_to_us)
    event.listen(engine, "begin", begin)


def use_write_ahead_log(engine: Engine) -> None:
    """Switch an SQLite file to WAL, so that readers never wait for a writer; nothing to do elsewhere."""
    if engine.dialect.name == "sqlite":
        raw = engine.raw_connection()
        raw.cursor().execute("PRAGMA journal_mode=WAL")
        raw.close()


_REASONS: tuple[tuple[str, str], ...] = (
    ("file is not a database", "not an SQLite database; name another file"),
    ("database is locked", "locked by another process; wait for it to finish or name another file"),
    ("database table is locked", "locked by another process; wait for it to finish or name another file"),
    (
        "database or disk is full",
        "the disk is full; what was measured before is kept, make room and run the same command again",
    ),
    ("disk i/o error", "the disk refuses to read or write; what was measured before is kept"),
    ("readonly database", "read-only; change its permissions or copy it"),
    ("unable to open database file", "cannot be opened; check the permissions of the file and its directory"),
    ("malformed", "the database file is damaged; restore it from a copy"),
    ("permission denied", "this user may not write there; check the grants"),
    ("password authentication failed", "the server refuses the user name or password"),
    ("does not exist", "the server knows no such database or user"),
    ("connection refused", "no server answers there; start it or correct host and port"),
    ("could not translate host name", "the host name is unknown"),
    ("failed to resolve host", "the host name is unknown"),
)


@contextmanager
def translated(place: str) -> Generator[None]:
    """Turn a driver's error into one line that names the place.

    Raises:
        DatabaseError: instead of any error of the driver.
    """
    try:
        yield
    except UnicodeDecodeError as error:
        raise DatabaseError(f"{place}: the database file is damaged; restore it from a copy") from error
    except (DBAPIError, sqlite3.Error) as error:
        text = " ".join(str(error.orig if isinstance(error, DBAPIError) else error).split())
        lowered = text.lower()
        for found, meaning in _REASONS:
            if found in lowered:
                raise DatabaseError(f"{place}: {meaning}") from error
        raise DatabaseError(f"{place}: {text}") from error


@contextmanager
def decoding(place: str, what: str) -> Generator[None]:
    """Stored text that does not mean what it should was damaged or written by something else.

    Raises:
        DatabaseError: instead of the error of decoding.
    """
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        told = " ".join(str(error).split())[:200]
        raise DatabaseError(f"{place}: {what} is damaged ({told}); restore the file from a copy") from error
