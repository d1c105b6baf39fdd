"""Measurements that others published, read as points of dooly's operations; the user's own copy is read."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from dooly.database import Times
from dooly.foreign.aiconfigurator import read_aiconfigurator

__all__ = ["SOURCES", "Reader"]

Reader = Callable[[Path, str | None], Iterator[Times]]
"""(path of the user's copy, the only GPU that is wanted or None) to times."""

SOURCES: Mapping[str, Reader] = {"aiconfigurator": read_aiconfigurator}
"""Readers of known publications, by the name that a user gives."""
