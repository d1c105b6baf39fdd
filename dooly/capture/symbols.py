"""PyTorch's symbolic sizes as expressions over configuration and request symbols."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import reduce
from typing import Any

import sympy
from torch.utils._sympy import functions

from dooly.errors import CaptureError
from dooly.ir.expr import Expr, floor_div, normal

__all__ = ["Reader"]


class Reader:
    """Reads sizes.

    Args:
        meanings: expressions of PyTorch's symbols.
        facts: ``(divisor, dividend)`` pairs that make quotients exact.
    """

    def __init__(self, meanings: Mapping[Any, Expr], facts: Iterable[tuple[Expr, Expr]]) -> None:
        self._meanings, self._facts = dict(meanings), tuple(facts)
        self._read: dict[Any, Expr] = {}

    def size(self, value: Any) -> Expr:
        """A size in normal form.

        Raises:
            CaptureError: the size depends on something that is neither configuration nor request.
        """
        if isinstance(value, int):
            return sympy.Integer(value)
        return self.read(value.node.expr)

    def read(self, e: Any) -> Expr:
        """An expression over PyTorch's symbols in ours, in normal form.

        Raises:
            CaptureError: as ``size``.
        """
        if e not in self._read:
            self._read[e] = normal(self._convert(e))
        return self._read[e]

    def _convert(self, e: Any) -> Expr:
        if e in self._meanings:
            return self._meanings[e]
        if e.is_Integer:
            return sympy.Integer(int(e))
        args = [self._convert(argument) for argument in e.args]
        if e.is_Add:
            return sympy.Add(*args)
        if e.is_Mul:
            return sympy.Mul(*args)
        if e.is_Pow:
            return sympy.Pow(*args)
        if isinstance(e, functions.FloorDiv | functions.CleanDiv):
            return self._quotient(args[0], args[1])
        if isinstance(e, functions.Mod | functions.PythonMod):
            return args[0] - args[1] * self._quotient(args[0], args[1])
        if isinstance(e, functions.Max | sympy.Max):
            return reduce(sympy.Max, args)
        if isinstance(e, functions.Min | sympy.Min):
            return reduce(sympy.Min, args)
        raise CaptureError(f"a size is {e}, which is no expression of configuration and request symbols")

    def _quotient(self, above: Expr, below: Expr) -> Expr:
        if below.is_negative:  # code that rounds up divides by the negative: -(a // -b)
            return -self._quotient(above - below - 1, -below)
        return floor_div(normal(above), normal(below), self._facts)
