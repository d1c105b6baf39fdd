"""Measurements of others: into the database, and from there to formulas."""

from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from dooly.foreign import SOURCES

if TYPE_CHECKING:
    from dooly.database import Database

__all__ = ["add_foreign"]


def add_foreign(database: "Database", source: str, path: Path, system: str | None, note: Callable[[str], None]) -> int:
    """Add what a source published to the database; returns how many points are new.

    Args:
        source: one of `SOURCES`.
        path: the user's copy.
        system: only this GPU.
        note: takes a line for each environment: what it is of, and how many points are new.

    Raises:
        DatabaseError: the copy is not usable, or has no such GPU.
    """
    total = 0
    for environment, times in groupby(SOURCES[source](path, system), lambda each: each.environment):
        total += (new := database.add_times(list(times)))
        note(f"{new:,d} new points: {environment}")
    return total
