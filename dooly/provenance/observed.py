"""Observations of a step that really ran, in plain numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dooly.ir import Owner

__all__ = ["Call", "Observed", "Tensor"]


@dataclass(frozen=True)
class Tensor:
    """Element type and shape, in numbers.

    Attributes:
        base: elements of the memory that it is a view of.
    """

    dtype: str
    shape: tuple[int, ...]
    base: int


@dataclass(frozen=True)
class Call:
    """An operation that ran.

    Attributes:
        path: module that ran it; of a parameter or buffer (target ``weight`` or ``buffer``) its name.
        target: ``dialect.name``.
        reads: tensors that it read, in the order of its schema.
        results: tensors that it returned, then those that it wrote beside.
        returned: how many of them it returned.
        arguments: what else it was given, by name, and defaults of what it was not given.
        defaults: those of the arguments that are as by default.
    """

    path: str
    target: str
    reads: tuple[Tensor, ...]
    results: tuple[Tensor, ...]
    arguments: Mapping[str, Any]
    returned: int
    defaults: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Observed:
    """One step at given numbers.

    Attributes:
        calls: parameters, buffers and operations; not what only allocates or looks at memory that nothing has written.
        owners: modules behind opaque operations.
    """

    calls: tuple[Call, ...]
    owners: tuple[Owner, ...]
