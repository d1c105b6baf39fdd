"""Parquet files of others, read first in another process: some damaged ones abort the process that reads them."""

import atexit
import json
import os
import resource
import select
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import polars as pl

from dooly.errors import DatabaseError

__all__ = ["MAX_ROWS", "read_any", "try_out"]

MAX_ROWS = 2_000_000
"""Most rows of a file."""

_MEMORY_BYTES = 2 * 2**30
"""Memory that reading files may take, beyond what the reader has when it starts."""

_SECONDS, _BYTES_PER_SECOND = 10.0, 10e6
"""Time that reading a file may take, and what a large one takes beyond that."""


def read_any(path: Path) -> pl.DataFrame:
    """The rows of any Parquet file.

    Raises:
        DatabaseError: it cannot be read, or has too many rows.
    """
    try:
        rows = pl.scan_parquet(path, glob=False).select(pl.len()).collect().item()
        if rows > MAX_ROWS:
            raise DatabaseError(f"{path}: {rows:,d} points; expected at most {MAX_ROWS:,d}")
        return pl.read_parquet(path, glob=False)
    except (OSError, MemoryError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        told = " ".join(str(error).split())[:200]
        raise DatabaseError(f"{path}: cannot be read as Parquet: {told}") from error


def try_out(path: Path) -> None:
    """Read a Parquet file in another process, under limits of memory and time.

    Raises:
        DatabaseError: it cannot be read, or reading it ends that process or goes beyond a limit.
    """
    try:
        if not path.is_file():
            raise DatabaseError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
        limit_s = _SECONDS + path.stat().st_size / _BYTES_PER_SECOND
    except OSError as error:
        raise DatabaseError(f"{path}: cannot be read: {error.strerror or error}") from error
    global _reader
    reader, _reader = _reader or _Reader(), None
    told = reader.read(path.resolve(), limit_s)
    if reader.alive:
        _reader = reader
    if told:
        raise DatabaseError(f"{path}: {told}")


class _Reader:
    """A process that reads one file after another, until one of them ends it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        self.alive = True
        atexit.register(self.end)

    def read(self, path: Path, limit_s: float) -> str:
        """Read a file; returns what is wrong with it, or nothing."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError):  # it has ended: no answer comes
            process.stdin.write(json.dumps(str(path)).encode() + b"\n")
        done = select.select([process.stdout], [], [], limit_s)[0]
        answer = process.stdout.readline() if done else b""
        if answer:
            return json.loads(answer)
        status = self.end()
        if not done:
            return f"cannot be read as Parquet: not done after {limit_s:.0f} s"
        how = signal.Signals(-status).name if status < 0 else f"status {status}"
        return f"cannot be read as Parquet: damaged in a way that ends its reader ({how})"

    def end(self) -> int:
        """End the process, if it has not ended by itself; returns its status."""
        self.alive = False
        self._process.kill()
        self._process.communicate()
        return self._process.returncode


_reader: _Reader | None = None


def _forget() -> None:
    """A process that was forked shares no reader with the one that forked it."""
    global _reader
    _reader = None


os.register_at_fork(after_in_child=_forget)


def _serve() -> None:
    """Read files named on stdin, one a line; answer each with what is wrong with it."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = used + _MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard < 0 else min(limit, hard), hard))
    for line in sys.stdin:
        path, told = Path(json.loads(line)), ""
        try:
            read_any(path)
        except DatabaseError as error:
            told = str(error).removeprefix(f"{path}: ")
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
