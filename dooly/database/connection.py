"""Open a database by path or URL, and say in one line what went wrong with it."""

import re
import sqlite3
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError

from dooly.errors import DatabaseError

__all__ = ["connect", "connected", "location_url", "place_of", "translated", "use_write_ahead_log"]


def location_url(location: str | Path) -> URL:
    """A path becomes an SQLite URL; anything with `://` is a URL already, of PostgreSQL by the driver that dooly lists.

    Raises:
        DatabaseError: the URL cannot be read.
    """
    if isinstance(location, Path) or "://" not in location:
        return URL.create("sqlite", database=str(location))
    try:
        url = make_url(location)
        return url.set(drivername=_POSTGRESQL.get(url.drivername, url.drivername))
    except (ArgumentError, ValueError):  # whose text, and so the traceback, may hold the password
        raise DatabaseError(
            f"{_PASSWORD.sub('***', location)}: not a database URL; expected a file path or e.g. "
            "postgresql+psycopg://user@host/name"
        ) from None


_POSTGRESQL: dict[str, str] = dict.fromkeys(("postgres", "postgresql"), "postgresql+psycopg")

_PASSWORD = re.compile(r"(?<=://).*(?=@)|(?<=password=)[^&]*")
"""The part before the host of a URL that cannot be read, and passwords behind it."""


def place_of(location: str | Path | URL) -> str:
    """How messages name a database: the path of a file, the URL without its passwords otherwise."""
    url = location if isinstance(location, URL) else location_url(location)
    if url.get_backend_name() == "sqlite" and url.database:
        return url.database
    secrets = [name for name in url.query if "password" in name]
    return url.difference_update_query(secrets).render_as_string(hide_password=True)


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
        engine = create_engine(url, connect_args=arguments, pool_pre_ping=not sqlite)
    except (NoSuchModuleError, ModuleNotFoundError, ArgumentError) as error:
        raise DatabaseError(
            f"{place_of(url)}: no driver for {url.drivername!r} is installed; install it (for PostgreSQL: "
            "pip install 'dooly[postgresql]') or name an SQLite file"
        ) from error
    if sqlite:
        _take_over_transactions(engine)
    return engine


def _check_file(path: Path, create: bool) -> None:
    if not path.parent.is_dir():
        raise DatabaseError(f"{path}: the directory {path.parent} does not exist; create it first")
    if path.is_dir():
        raise DatabaseError(f"{path}: is a directory; name a file in it")
    if path.exists() and not path.is_file():
        raise DatabaseError(f"{path}: a pipe or a device, not a file; name another file")
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


def connected(engine: Engine, patience_s: float) -> Connection:
    """A connection; while the server is away, as when it is started anew, it is tried again for so many seconds."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return engine.connect()
        except OperationalError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(_AGAIN_S)


_AGAIN_S = 0.25
"""Between two attempts to connect."""


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
    ("no space left on device", "the server's disk is full; what was measured before is kept"),
    ("connection refused", "no server answers there; start it or correct host and port"),
    ("starting up", "the server is not up yet; wait for it and run the same command again"),
    *(
        (cut, "the server has closed the connection; what was measured before is kept, run the same command again")
        for cut in ("server closed the connection", "terminating connection", "shutting down", "connection is lost")
    ),
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
