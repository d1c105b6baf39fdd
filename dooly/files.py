"""Writing results so that a full disk or a crash never costs an older file."""

import os
import tempfile
from pathlib import Path

from dooly.errors import DoolyError

__all__ = ["write_bytes", "write_text"]


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
