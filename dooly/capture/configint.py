"""An ``int`` that remembers how it was computed from the configuration, and the divisibility asserted on the way.

vLLM's own code builds a model from such integers without noticing: they are ``int`` for ``isinstance``, hashing,
``range``, caches and validators, while sums, products and quotients of them carry a sympy expression along.
"""

from __future__ import annotations

import math
from collections.abc import Set
from typing import Any, TypeGuard, cast

import sympy

from dooly.ir.expr import Expr, FloorDiv, exact_div, floor_div, normal, symbol

__all__ = ["ConfigFloat", "ConfigInt", "Facts", "expression", "size_of"]


class Facts:
    """Divisibility that code relied on while it ran: ``(divisor, dividend)``, in order of first use.

    Attributes:
        taken: those of them that code relied on without a check.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[Expr, Expr], None] = {}
        self.taken: set[tuple[Expr, Expr]] = set()

    def __iter__(self) -> Any:
        return iter(self._known)

    def take(self, dividend: Expr, divisor: Expr) -> None:
        """Note that code takes ``dividend / divisor`` for an integer, unless that follows from what is known."""
        if self.quotient(dividend, divisor) is None:
            self.require(dividend, divisor)
            self.taken.add((divisor, dividend))

    def keep(self, known: Set[tuple[Expr, Expr]]) -> None:
        """Forget all facts but these."""
        self._known = dict.fromkeys(fact for fact in self._known if fact in known)

    def quotient(self, dividend: Expr, divisor: Expr) -> Expr | None:
        """``dividend / divisor`` where the facts make it an integer, else None."""
        return exact_div(dividend, divisor, self._known)

    def add(self, dividend: Expr, divisor: Expr) -> None:
        """Note that ``divisor`` divides ``dividend``, unless that follows from what is known.

        Checks against a fixed number (kernels ask for alignment) say nothing about the model and are left out.
        """
        if divisor.free_symbols:
            self.require(dividend, divisor)

    def require(self, dividend: Expr, divisor: Expr) -> None:
        """Note that ``divisor``, be it a number, divides ``dividend``, unless that follows from what is known."""
        if self.quotient(dividend, divisor) is None:
            above, below = sympy.fraction(sympy.cancel(dividend / divisor))
            self._known[normal(below), normal(above)] = None


class ConfigInt(int):
    """An integer with the expression that it came from.

    Arithmetic with integers keeps the expression, and so do fractions until they are rounded; anything else gives the
    plain value, so losing the expression degrades to a correct constant.  ``a % b == 0`` is recorded as a fact, after
    which ``a // b`` is the exact quotient, as is that of two fields without a rest.  Any other ``a // b`` stays a floor
    division.
    """

    expr: Expr
    facts: Facts

    def __new__(cls, value: int, expr: Expr, facts: Facts) -> ConfigInt:
        self = int.__new__(cls, value)
        self.expr = normal(expr)
        self.facts = facts
        return self

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        return int, (int(self),)

    def __copy__(self) -> ConfigInt:
        return self

    def __deepcopy__(self, memo: object) -> ConfigInt:
        return self

    def _with(self, value: int, expr: Expr) -> ConfigInt:
        return ConfigInt(value, expr, self.facts)

    def __neg__(self) -> ConfigInt:
        return self._with(-int(self), -self.expr)

    def __pos__(self) -> ConfigInt:
        return self

    def __add__(self, other: object) -> Any:
        return self._with(int(self) + int(other), self.expr + expression(other)) if _whole(other) else NotImplemented

    __radd__ = __add__

    def __sub__(self, other: object) -> Any:
        return self._with(int(self) - int(other), self.expr - expression(other)) if _whole(other) else NotImplemented

    def __rsub__(self, other: object) -> Any:
        return self._with(int(other) - int(self), expression(other) - self.expr) if _whole(other) else NotImplemented

    def __mul__(self, other: object) -> Any:
        if _whole(other):
            return self._with(int(self) * int(other), self.expr * expression(other))
        if isinstance(other, float):
            return _fraction(int(self) * other, self.expr * _rational(other), self.facts)
        return NotImplemented  # [x] * n asks the list

    __rmul__ = __mul__

    def __truediv__(self, other: object) -> Any:
        if isinstance(other, int | float) and not isinstance(other, bool):
            return _fraction(int(self) / other, self.expr / _rational(other), self.facts)
        return NotImplemented

    def __floordiv__(self, other: object) -> Any:
        return self._floordiv(self, other) if _whole(other) else NotImplemented

    def __rfloordiv__(self, other: object) -> Any:
        return self._floordiv(other, self) if _whole(other) else NotImplemented

    def __mod__(self, other: object) -> Any:
        return self._mod(self, other) if _whole(other) else NotImplemented

    def __rmod__(self, other: object) -> Any:
        return self._mod(other, self) if _whole(other) else NotImplemented

    def __divmod__(self, other: object) -> Any:
        return (self // other, self % other) if _whole(other) else NotImplemented

    def __rdivmod__(self, other: object) -> Any:
        return (other // self, other % self) if _whole(other) else NotImplemented

    def __pow__(self, exponent: Any, modulus: Any = None) -> Any:
        if _whole(exponent) and exponent >= 0 and modulus is None:
            return self._with(int(self) ** int(exponent), self.expr ** int(exponent))
        return pow(int(self), exponent, modulus)

    def _floordiv(self, dividend: int, divisor: int) -> ConfigInt:
        above, below = expression(dividend), expression(divisor)
        if above.is_Symbol and below.is_Symbol and below not in _RANKS and int(dividend) % int(divisor) == 0:
            self.facts.take(above, below)
        return self._with(int(dividend) // int(divisor), floor_div(above, below, self.facts))

    def _mod(self, dividend: int, divisor: int) -> int:
        above, below = expression(dividend), expression(divisor)
        value = int(dividend) % int(divisor)
        if value == 0:
            self.facts.add(above, below)
            return 0
        return self._with(value, above - below * cast(Expr, FloorDiv(above, below)))


class ConfigFloat(float):
    """A fraction of integers of the configuration, until it is rounded; any other use gives the plain value."""

    expr: Expr
    facts: Facts

    def __reduce__(self) -> tuple[type[float], tuple[float]]:
        return float, (float(self),)

    def __copy__(self) -> ConfigFloat:
        return self

    def __deepcopy__(self, memo: object) -> ConfigFloat:
        return self

    def __mul__(self, other: object) -> Any:
        if isinstance(other, int | float) and not isinstance(other, bool):
            return _fraction(float(self) * other, self.expr * _rational(other), self.facts)
        return NotImplemented

    __rmul__ = __mul__

    def __truediv__(self, other: object) -> Any:
        if isinstance(other, int | float) and not isinstance(other, bool):
            return _fraction(float(self) / other, self.expr / _rational(other), self.facts)
        return NotImplemented

    def whole(self) -> int:
        """The integer towards zero; exact where this is one already."""
        value = int(float(self))
        above, below = sympy.fraction(sympy.cancel(self.expr))
        if value == float(self):
            self.facts.require(above, below)
            return ConfigInt(value, above / below, self.facts)
        return ConfigInt(value, floor_div(normal(above), normal(below), self.facts), self.facts)

    def __trunc__(self) -> int:
        return self.whole()

    __floor__ = __trunc__

    def __ceil__(self) -> int:
        return self.whole() if self == int(float(self)) else self.whole() + 1

    def __round__(self, digits: Any = None) -> Any:
        if digits is None and self == int(float(self)):
            return self.whole()
        return round(float(self), digits)


def _fraction(value: float, expr: Expr, facts: Facts) -> float:
    if not value > 0 or value == float("inf"):
        return value
    made = float.__new__(ConfigFloat, value)
    made.expr, made.facts = expr, facts
    return made


def _rational(value: float) -> Expr:
    if isinstance(value, ConfigInt | ConfigFloat):
        return value.expr
    return sympy.Rational(repr(value)) if math.isfinite(value) else sympy.nan


_RANKS = frozenset(map(symbol, ("TP", "DP", "PP")))
"""Symbols that no field of a configuration is a multiple of by itself."""


def expression(value: object) -> Expr:
    """The expression of an integer: its own if it carries one, else the number."""
    return value.expr if isinstance(value, ConfigInt) else sympy.Integer(int(cast(int, value)))


def size_of(value: int) -> Expr | int:
    """An integer as an attribute of the IR: its expression if it carries one, else the number."""
    return value.expr if isinstance(value, ConfigInt) else int(value)


def _whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
