"""Dimensions: integer expressions over configuration and request symbols, with one normal form and a closed grammar.

In text ``/`` is exact division, ``//`` rounds down; ``dooly.ir.expr_parser`` reads it back.
"""

import re
from collections.abc import Iterable, Mapping
from fractions import Fraction
from functools import cache, lru_cache
from typing import cast

import sympy

__all__ = [
    "Expr",
    "FloorDiv",
    "evaluate",
    "exact_div",
    "floor_div",
    "format_expr",
    "normal",
    "substitute",
    "symbol",
    "symbols_of",
]

Expr = sympy.Expr


@cache
def symbol(name: str) -> sympy.Symbol:
    """The symbol of that name: the only place that makes one, since assumptions are part of a symbol's identity."""
    return sympy.Symbol(name, integer=True, positive=True)


class FloorDiv(sympy.Function):
    """``a // b`` for integers.  Stays symbolic unless the quotient is exact or numeric."""

    nargs = (2,)
    is_integer = True

    def _eval_is_nonnegative(self) -> bool | None:
        above, below = self.args
        return True if above.is_nonnegative and below.is_positive else None

    @classmethod
    def eval(cls, a: Expr, b: Expr) -> Expr | None:  # pyright: ignore[reportIncompatibleMethodOverride] (sympy)
        if isinstance(a, sympy.Rational) and isinstance(b, sympy.Rational) and b != 0:
            return sympy.floor(a / b)
        if b == 1 or a == 0:
            return a
        quotient = normal(a / b)
        whole = sum((term for term in sympy.Add.make_args(quotient) if _is_polynomial(term)), sympy.Integer(0))
        if whole == 0:
            return None
        rest = normal(a - whole * b)  # (b*q + r)//b == q + r//b
        return whole if rest == 0 else whole + cast(Expr, cls(rest, b, evaluate=rest.is_Rational))


def _is_polynomial(e: Expr) -> bool:
    """Integer coefficients and no denominator: an integer for all integer symbols."""
    return all(
        term.as_coeff_Mul()[0].is_Integer and not any(p.exp.is_negative for p in term.atoms(sympy.Pow))
        for term in sympy.Add.make_args(e)
    )


@lru_cache(maxsize=65536)
def normal(e: Expr) -> Expr:
    """Normal form: products multiplied out.  Two dimensions are equal when their normal forms are."""
    return cast(Expr, sympy.expand(e))


def symbols_of(e: Expr) -> frozenset[str]:
    """Names of the free symbols."""
    return frozenset(str(s) for s in e.free_symbols)


def exact_div(a: Expr, b: Expr, facts: Iterable[tuple[Expr, Expr]]) -> Expr | None:
    """``a / b`` if it is an integer under the facts ``(divisor, dividend)``, else None.

    Each additive term of ``a`` must be divisible: by cancellation, or as a multiple of ``dividend / divisor``.

    >>> TP, Nq, D = map(symbol, ("TP", "Nq", "D"))
    >>> exact_div(D * Nq, TP, [(TP, Nq)])
    D*Nq/TP
    >>> exact_div(D, TP, [(TP, Nq)]) is None
    True
    """
    quotient = normal(a / b)
    ratios = [normal(n / d) for d, n in facts]
    if all(_is_integer(term, ratios) for term in sympy.Add.make_args(quotient)):
        return quotient
    return None


def floor_div(a: Expr, b: Expr, facts: Iterable[tuple[Expr, Expr]]) -> Expr:
    """``a // b``, with the terms that are integers under the facts ``(divisor, dividend)`` outside the floor.

    >>> Dr = symbol("Dr")
    >>> floor_div(Dr + 1, sympy.Integer(2), [(sympy.Integer(2), Dr)])
    Dr/2
    >>> T, TP = symbol("T"), symbol("TP")
    >>> floor_div(-T, TP, []) == -floor_div(T + TP - 1, TP, [])
    True
    """
    if normal(a).could_extract_minus_sign() and not normal(b).could_extract_minus_sign():  # rounding up, in one spelling
        return normal(-floor_div(normal(b - a - 1), b, facts))
    ratios = [normal(n / d) for d, n in facts]
    quotients = [normal(term / b) for term in sympy.Add.make_args(normal(a))]
    whole = [quotient for quotient in quotients if _is_integer(quotient, ratios)]
    rest = normal(a - b * sum(whole, sympy.Integer(0)))
    return normal(sum(whole, sympy.Integer(0)) + (cast(Expr, FloorDiv(rest, b)) if rest != 0 else 0))


def _is_integer(term: Expr, ratios: list[Expr], depth: int = 2) -> bool:
    if _is_polynomial(term):
        return True
    if depth == 0:
        return False
    return any(_is_integer(normal(term / ratio), ratios, depth - 1) for ratio in ratios)


def substitute(e: Expr, values: Mapping[sympy.Symbol, Expr]) -> Expr:
    """The normal form with other expressions in the place of symbols.

    Raises:
        ZeroDivisionError: a divisor becomes zero.
    """
    result = normal(cast(Expr, e.xreplace(values)))
    if result.has(sympy.zoo, sympy.nan, sympy.oo, -sympy.oo):
        raise ZeroDivisionError(f"{format_expr(e)} divides by zero")
    return result


def evaluate(e: Expr, values: Mapping[str, int | float]) -> int | float | Fraction:
    """Value of an expression, exact unless a float takes part; an ``int`` when it is whole.

    Raises:
        KeyError: a symbol has no value.
        ZeroDivisionError: a divisor is zero.
    """
    result = _evaluate(e, values)
    return int(result) if isinstance(result, Fraction) and result.denominator == 1 else result


def _evaluate(e: Expr, values: Mapping[str, int | float]) -> int | float | Fraction:
    if e.is_Symbol:
        value = values[str(e)]
        return Fraction(value) if isinstance(value, int) else value
    if e.is_Rational:
        return Fraction(int(cast(sympy.Rational, e).p), int(cast(sympy.Rational, e).q))
    args = [_evaluate(cast(Expr, a), values) for a in e.args]
    if e.is_Add:
        return sum(args)
    if e.is_Mul:
        product: int | float | Fraction = Fraction(1)
        for arg in args:
            product = product * arg
        return product
    if e.is_Pow:
        return args[0] ** args[1]
    if isinstance(e, FloorDiv):
        return args[0] // args[1]
    if isinstance(e, sympy.Max):
        return max(args)
    if isinstance(e, sympy.Min):
        return min(args)
    raise TypeError(f"not a dimension: {sympy.srepr(e)}")


# --- text ---------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=65536)
def format_expr(e: Expr) -> str:
    """Text of an expression, factored for reading; ``parse_expr`` gives the normal form back.

    >>> format_expr(symbol("D") * symbol("Nq") + 2 * symbol("D") * symbol("Nkv"))
    'D*(2*Nkv + Nq)'
    """
    return _text(sympy.factor(e) if e.is_Add and _is_quick_to_factor(e) else e)


def _is_quick_to_factor(e: Expr) -> bool:
    """Factoring is for reading: it costs without bound above the size of dimensions, and pulls floats about."""
    if e.has(sympy.Float) or any(max(abs(n.p), n.q) >= 2**63 for n in e.atoms(sympy.Rational)):
        return False
    return len(e.args) <= 24 and len(e.free_symbols) <= 6 and all(abs(p.exp) <= 3 for p in e.atoms(sympy.Pow))


def _text(e: sympy.Basic) -> str:
    if e.is_Symbol or e.is_Integer:
        return str(e)
    if isinstance(e, sympy.Float):
        return repr(float(e))
    if isinstance(e, sympy.Add):
        terms = sorted(sympy.Add.make_args(e), key=lambda t: (not t.free_symbols, _text(t.as_coeff_Mul()[1])))
        text = _text(terms[0])
        for term in terms[1:]:
            part = _text(term)
            text += f" - {part[1:]}" if part.startswith("-") else f" + {part}"
        return text
    if isinstance(e, Expr) and (e.is_Mul or e.is_Rational or e.is_Pow):
        return _product(e)
    if isinstance(e, FloorDiv):
        return "//".join(_atom(format_expr(normal(cast(Expr, a)))) for a in e.args)
    if isinstance(e, (sympy.Max, sympy.Min)):
        name = "max" if isinstance(e, sympy.Max) else "min"
        return f"{name}({', '.join(sorted(format_expr(cast(Expr, a)) for a in e.args))})"
    raise TypeError(f"not a dimension: {sympy.srepr(e)}")


def _product(e: Expr) -> str:
    coefficient, rest = e.as_coeff_Mul()
    above: list[str] = []
    below: list[str] = []
    sign = ""
    if isinstance(coefficient, sympy.Rational):
        numerator, denominator = int(coefficient.p), int(coefficient.q)
        sign = "-" if numerator < 0 else ""
        if abs(numerator) != 1:
            above.append(str(abs(numerator)))
        if denominator != 1:
            below.append(str(denominator))
    else:
        above.append(_text(coefficient))
    powers = [] if rest == 1 else [factor.as_base_exp() for factor in sympy.Mul.make_args(rest)]
    for base, exponent in sorted(powers, key=lambda power: (power[0].is_Add, _text(power[0]))):
        text = _atom(_text(base))
        power = abs(int(exponent))
        (above if exponent > 0 else below).append(text if power == 1 else f"{text}**{power}")
    text = "*".join(above) or "1"
    if below:
        text += f"/{below[0]}" if len(below) == 1 else f"/({'*'.join(below)})"
    return sign + text


def _atom(text: str) -> str:
    return text if re.fullmatch(r"\w+(\.\d+)?|(max|min)\([^()]*\)", text) else f"({text})"
