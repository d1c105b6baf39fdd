"""Element types, tensor types, attribute values and the lattice of origins."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from math import isnan, nan, prod
from typing import TypeAlias

import sympy

from dooly.ir.expr import Expr, normal, substitute, symbols_of

__all__ = ["ITEM_BYTES", "Attribute", "Attributes", "Origin", "TensorType", "attributes", "join", "origin_of"]

ITEM_BYTES: Mapping[str, int] = {
    "bf16": 2,
    "f16": 2,
    "f32": 4,
    "f64": 8,
    "i64": 8,
    "i32": 4,
    "i16": 2,
    "i8": 1,
    "u8": 1,
    "bool": 1,
    "f8e4m3": 1,
    "f8e5m2": 1,
}
"""Bytes of one element, by the name that the text uses."""

Attribute: TypeAlias = "Expr | float | bool | str | tuple[Attribute, ...] | None"
"""Integers are sympy integers or expressions, so that ``1``, ``1.0`` and ``true`` never compare equal."""

Attributes: TypeAlias = tuple[tuple[str, Attribute], ...]


def attributes(**values: object) -> Attributes:
    """Sorted attributes from keywords; Python integers become expressions.

    Raises:
        TypeError: a value is of no attribute type.
    """
    return tuple((name, _attribute(values[name])) for name in sorted(values))


def _attribute(value: object) -> Attribute:
    if isinstance(value, float) and isnan(value):
        return nan  # always the same, which equals itself inside of tuples
    if isinstance(value, bool) or value is None or isinstance(value, str | float):
        return value
    if isinstance(value, int):
        return sympy.Integer(int(value))
    if isinstance(value, Expr):
        return normal(value)
    if isinstance(value, tuple | list):
        return tuple(_attribute(item) for item in value)  # pyright: ignore[reportUnknownVariableType]
    raise TypeError(f"{value!r} of type {type(value).__name__} cannot be an attribute")


class Origin(Enum):
    """The origin of a dimension: ``constant < {config, request} < mixed``."""

    CONSTANT = "constant"
    CONFIG = "config"
    REQUEST = "request"
    MIXED = "mixed"


def join(origins: Iterable[Origin]) -> Origin:
    """Least upper bound.

    >>> join([Origin.CONSTANT, Origin.CONFIG]), join([Origin.CONFIG, Origin.REQUEST])
    (<Origin.CONFIG: 'config'>, <Origin.MIXED: 'mixed'>)
    """
    found = set(origins) - {Origin.CONSTANT}
    if not found:
        return Origin.CONSTANT
    return found.pop() if len(found) == 1 else Origin.MIXED


def origin_of(e: Expr, config: frozenset[str], request: frozenset[str]) -> Origin | None:
    """Join over the symbols of an expression, or None if one of them is declared nowhere (an unknown origin)."""
    names = symbols_of(e)
    if names - config - request:
        return None
    return join(Origin.CONFIG if name in config else Origin.REQUEST for name in names)


@dataclass(frozen=True)
class TensorType:
    """Element type and shape; each dimension is an expression in normal form."""

    dtype: str
    shape: tuple[Expr, ...]

    def __post_init__(self) -> None:
        if self.dtype not in ITEM_BYTES:
            raise ValueError(f"unknown element type {self.dtype!r}, expected one of {', '.join(ITEM_BYTES)}")
        for dim in self.shape:
            if dim.has(sympy.Float):
                raise ValueError(f"dimension {dim} is not an integer expression")
        object.__setattr__(self, "shape", tuple(normal(sympy.sympify(dim, strict=True)) for dim in self.shape))

    @property
    def numel(self) -> Expr:
        """Number of elements."""
        return normal(prod(self.shape, start=sympy.Integer(1)))

    @property
    def bytes(self) -> Expr:
        """Bytes of a dense tensor of this type."""
        return normal(self.numel * ITEM_BYTES[self.dtype])

    def map(self, rewrite: Mapping[sympy.Symbol, Expr]) -> "TensorType":
        """The type with symbols replaced."""
        return TensorType(self.dtype, tuple(substitute(dim, rewrite) for dim in self.shape))
