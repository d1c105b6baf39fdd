"""Expressions as Python closures, over floats for one batch and over numpy columns for many.  No code is generated."""

import operator
from collections.abc import Callable, Mapping
from functools import lru_cache, reduce
from typing import Any, cast

import numpy as np
import sympy

from dooly.ir.expr import Expr, FloorDiv

__all__ = ["Evaluator", "column_evaluator", "scalar_evaluator"]

Evaluator = Callable[[Mapping[str, Any]], Any]
"""From values by symbol name (all floats, or all arrays of one length) to the value of the expression."""

_Fold = Callable[[Any, Any], Any]


@lru_cache(maxsize=4096)
def scalar_evaluator(e: Expr) -> Evaluator:
    """For floats."""
    return _compile(e, max, min)


@lru_cache(maxsize=4096)
def column_evaluator(e: Expr) -> Evaluator:
    """For numpy columns; an expression without symbols gives a float."""
    return _compile(e, np.maximum, np.minimum)


def _compile(e: Expr, maximum: _Fold, minimum: _Fold) -> Evaluator:
    if e.is_Symbol:
        return operator.itemgetter(str(e))
    if e.is_Number:
        constant = float(e)
        return lambda _: constant
    linear = _linear(e)
    if linear is not None:
        return linear
    if e.is_Add and not e.has(sympy.Float):
        e = sympy.factor_terms(e)  # what terms have in common once
    numerator, denominator = sympy.fraction(e)
    if denominator != 1:
        return _folded(operator.truediv, [_compile(part, maximum, minimum) for part in (numerator, denominator)])
    args = [_compile(cast(Expr, a), maximum, minimum) for a in e.args]
    if e.is_Add:
        return _folded(operator.add, args)
    if e.is_Mul:
        return _folded(operator.mul, args)
    if e.is_Pow:
        base, exponent = args
        return lambda values: base(values) ** exponent(values)
    if isinstance(e, FloorDiv):
        return _folded(operator.floordiv, args)
    if isinstance(e, sympy.Max):
        return _folded(maximum, args)
    if isinstance(e, sympy.Min):
        return _folded(minimum, args)
    raise TypeError(f"not an expression of a formula: {sympy.srepr(e)}")


def _folded(fold: _Fold, args: list[Evaluator]) -> Evaluator:
    if len(args) == 2:
        first, second = args
        return lambda values: fold(first(values), second(values))
    return lambda values: reduce(fold, [arg(values) for arg in args])


def _linear(e: Expr) -> Evaluator | None:
    """The common case, ``c + a*X + b*Y + ...``, in one closure."""
    constant, pairs = 0.0, list[tuple[float, str]]()
    for term in sympy.Add.make_args(e):
        coefficient, rest = term.as_coeff_Mul()
        if rest == 1:
            constant += float(coefficient)
        elif rest.is_Symbol:
            pairs.append((float(coefficient), str(rest)))
        else:
            return None
    (slope, name), *more = pairs
    if not more:
        return lambda values: constant + slope * values[name]
    (slope2, name2), *more = more
    if not more:
        return lambda values: constant + slope * values[name] + slope2 * values[name2]

    def add_up(values: Mapping[str, Any]) -> Any:
        total = constant + slope * values[name] + slope2 * values[name2]
        for factor, symbol in more:
            total += factor * values[symbol]
        return total

    return add_up
