"""The files of a published package: a wheel, or the folder that it was unpacked or installed into."""

import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Self

import polars as pl

from dooly.database.trial import read_any, try_out
from dooly.errors import DatabaseError

__all__ = ["Package", "release_key"]


class Package:
    """A package of known name and release.

    Args:
        place: how messages name it.
        root: the package's folder.
    """

    def __init__(self, place: str, root: "Path | zipfile.Path") -> None:
        self.place, self._root = place, root

    @classmethod
    def open(cls, path: Path, distribution: str, release: str) -> Self:
        """The package at a path.

        Args:
            path: wheel, folder that it was unpacked or installed into, or the package's folder in there.
            distribution: name of the package, with dashes.
            release: the only one whose tables are known.

        Raises:
            DatabaseError: there is no such package, or another release of it.
        """
        module = distribution.replace("-", "_")
        expected = f"expected the wheel of {distribution} {release}, or the folder that it was unpacked into"
        try:
            root = zipfile.Path(path) if path.is_file() else (path.parent if path.name == module else path)
            names = [each.name for each in root.iterdir()]
        except (OSError, zipfile.BadZipFile) as error:
            told = "not a wheel" if isinstance(error, zipfile.BadZipFile) else error.strerror or str(error)
            raise DatabaseError(f"{path}: {told}; {expected}") from error
        infos = (re.fullmatch(rf"{module}-([^-]+)\.dist-info", name) for name in names)
        releases = sorted(found[1] for found in infos if found)
        if module not in names or not releases:
            raise DatabaseError(f"{path}: no {distribution} is in there; {expected}")
        if releases != [release]:
            raise DatabaseError(f"{path}: {distribution} {', '.join(releases)}; this dooly reads {release}")
        return cls(str(path), root / module)

    def folders(self, *parts: str) -> list[str]:
        """Names of the folders in a folder, the newest release first; none where that does not exist."""
        folder = self._root.joinpath(*parts)
        names = [each.name for each in folder.iterdir() if each.is_dir()] if folder.is_dir() else []
        return sorted(names, key=release_key, reverse=True)

    def has(self, *parts: str) -> bool:
        """Whether there is such a file."""
        return self._root.joinpath(*parts).is_file()

    def read(self, *parts: str) -> bytes:
        """The content of a file.

        Raises:
            DatabaseError: there is none, or it is damaged.
        """
        try:
            return self._root.joinpath(*parts).read_bytes()
        except (OSError, KeyError, zipfile.BadZipFile) as error:
            raise DatabaseError(f"{self.place}: {'/'.join(parts)}: cannot be read: {error}") from error

    def table(self, columns: Sequence[str], *parts: str) -> pl.DataFrame:
        """The rows of a Parquet file.

        Args:
            columns: that must be there; others are left in, too.

        Raises:
            DatabaseError: it is damaged or truncated, or lacks a column.
        """
        place, content = f"{self.place}: {'/'.join(parts)}", self.read(*parts)
        with NamedTemporaryFile(suffix=".parquet") as file:
            copy = Path(file.name)
            try:
                copy.write_bytes(content)
                try_out(copy)
                frame = read_any(copy)
            except OSError as error:
                raise DatabaseError(f"{place}: cannot be read: {' '.join(str(error).split())[:120]}") from error
            except DatabaseError as error:
                raise DatabaseError(str(error).replace(file.name, place)) from error
        if missing := [name for name in columns if name not in frame.columns]:
            raise DatabaseError(f"{place}: without {', '.join(missing)}; not a table of this package")
        return frame


def release_key(release: str) -> tuple[int, ...]:
    """The numbers of a release, to sort by.

    >>> release_key("0.24.0") > release_key("0.9.1")
    True
    """
    return tuple(map(int, re.findall(r"\d+", release)))
