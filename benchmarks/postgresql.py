"""A PostgreSQL server of one's own, in a folder of its own, that can be stopped, killed and started again."""

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import create_engine

__all__ = ["Server", "installed", "server"]

_NOT_ROOT = "nobody"
"""User under whom it runs where this process is root's, which PostgreSQL refuses."""

_ELSEWHERE = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
"""Where Debian keeps the programs, outside the search path."""


def _program(name: str) -> str | None:
    return shutil.which(name) or next((str(found / name) for found in _ELSEWHERE if (found / name).exists()), None)


def installed() -> bool:
    """Whether a server can be started here."""
    return _program("initdb") is not None and _program("pg_ctl") is not None


class Server:
    """A running server with one user, who has a password.

    Attributes:
        port: where it listens.
        password: of the user.
        url: of its database, password included.
    """

    def __init__(self, folder: Path) -> None:
        self.password = secrets.token_hex(8)
        self._folder, self.port = folder, _free_port()
        self._data = folder / "data"
        if os.geteuid() == 0:
            shutil.chown(folder, _NOT_ROOT)
        (folder / "password").write_text(self.password)
        (folder / "password").chmod(0o644)
        self._run("initdb", "-D", self._data, "-U", "dooly", "-A", "scram-sha-256", "--pwfile", folder / "password")
        self.start()

    @property
    def url(self) -> str:
        """As `--db` takes it."""
        return self.of("postgres")

    def of(self, database: str) -> str:
        """The URL of a database of the server."""
        return f"postgresql://dooly:{self.password}@localhost:{self.port}/{database}"

    def create(self, database: str) -> str:
        """Make a database; returns its URL."""
        engine = create_engine(self.url.replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {database}")
        engine.dispose()
        return self.of(database)

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = f"-p {self.port} -c listen_addresses=localhost -c unix_socket_directories={self._folder}"
        self._run("pg_ctl", "-s", "-D", self._data, "-w", "-l", self._folder / "log", "-o", options, "start")

    def stop(self, mode: str = "fast") -> None:
        """Stop it: ``fast`` ends the connections, ``immediate`` is a crash from which it recovers at its next start."""
        self._run("pg_ctl", "-s", "-D", self._data, "-w", "-m", mode, "stop")

    def _run(self, name: str, *arguments: object) -> None:
        command = [_program(name) or name, *map(str, arguments)]
        user = _NOT_ROOT if os.geteuid() == 0 else None
        result = subprocess.run(
            command, user=user, cwd=self._folder, stdin=subprocess.DEVNULL, capture_output=name == "initdb", text=True
        )
        if result.returncode:
            raise RuntimeError(f"{name} ended with status {result.returncode}: {result.stderr or ''}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


@contextmanager
def server() -> Generator[Server]:
    """A server for the duration of a block."""
    with tempfile.TemporaryDirectory(prefix="dooly-postgresql-", ignore_cleanup_errors=True) as name:
        running = Server(Path(name))
        try:
            yield running
        finally:
            running.stop("immediate")
