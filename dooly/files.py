"""Reading files within bounds, and writing results so that a full disk or a crash never costs an older file."""

import errno
import gzip
import io
import os
import stat
import tempfile
import zlib
from pathlib import Path
from typing import IO

from dooly.errors import DoolyError

__all__ = ["read_bytes", "read_gzip", "read_text", "write_bytes", "write_text"]

_MOST_BYTES = 2**28
"""Most bytes of a file that is read whole, and of what a compressed one holds."""


def read_text(path: str | Path) -> str:
    """`read_bytes` as UTF-8 text.

    Raises:
        OSError: as `read_bytes`.
        UnicodeDecodeError: the file is not UTF-8.
    """
    return read_bytes(path).decode("utf-8")


def read_bytes(path: str | Path) -> bytes:
    """Content of a file; never of a pipe or a device, which may have no end.

    Raises:
        OSError: it cannot be read, is no file, or has more than 256 MiB.
    """
    with open(path, "rb", opener=_open_without_waiting) as file:
        kind = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(kind):
            raise OSError(errno.ESPIPE, "a pipe or a device; write its content to a file first", str(path))
        return _bounded(file, path)


def read_gzip(path: str | Path) -> bytes:
    """Content of a file that gzip compressed.

    Raises:
        OSError, EOFError: as `read_bytes`, or it is not such a file or is cut off.
    """
    with gzip.open(io.BytesIO(read_bytes(path))) as file:
        try:
            return _bounded(file, path)
        except zlib.error as error:
            raise gzip.BadGzipFile(str(error)) from error


def _open_without_waiting(path: str, flags: int) -> int:
    """Open a file, or a pipe that nobody writes to."""
    return os.open(path, flags | os.O_NONBLOCK)


def _bounded(file: IO[bytes] | gzip.GzipFile, path: str | Path) -> bytes:
    content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise OSError(errno.EFBIG, f"more than {_MOST_BYTES // 2**20} MiB", str(path))
    return content


def write_text(path: str | Path, text: str) -> None:
    """`write_bytes` of UTF-8 text."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file; an existing file is replaced only once the new one is complete on disk.

    Raises:
        DoolyError: the file cannot be written; what was there before still is.
    """
    target = Path(path).resolve()  # through a link, so that the link stays
    try:
        if target.exists() and not target.is_file():  # a device or a pipe cannot be replaced
            target.write_bytes(content)
            return
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with open(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~_umask())
            os.replace(name, target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise DoolyError(f"{path}: cannot write: {error.strerror}") from error


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
