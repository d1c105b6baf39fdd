"""Reads dimensions by a small allow-list grammar: integers, names, ``+ - * / // **``, ``max``, ``min``, parentheses.

Nothing is evaluated, and what is larger than any dimension could be is refused before it costs time.
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import cast

import sympy

from dooly.ir.expr import Expr, FloorDiv, format_expr, normal, symbol

__all__ = ["ExprSyntaxError", "parse_expr"]


class ExprSyntaxError(ValueError):
    """Text is not an expression.  ``offset`` is where, counted in characters from the start."""

    def __init__(self, message: str, offset: int) -> None:
        self.offset = offset
        super().__init__(message)


_TOKEN = re.compile(r"\s*(?:(\d+\.\d*(?:e[+-]?\d+)?|\d+(?:e[+-]?\d+)?)|([A-Za-z_]\w*)|(\*\*|//|[-+*/(),]))")
_SPACE = re.compile(r"\s*")
_MAX_LENGTH, _MAX_TERMS, _MAX_FACTORS, _MAX_DEPTH, _MAX_DIGITS, _MAX_EXPONENT = 2000, 100, 32, 40, 30, 16
_MAX_ARGUMENTS = 16
"""Arguments of all different floors and extrema in one expression: what costs most to bring into normal form."""


@lru_cache(maxsize=65536)
def parse_expr(text: str) -> Expr:
    """Read an expression and return its normal form.

    Raises:
        ExprSyntaxError: not an expression of the grammar, or larger than any dimension could be: whatever is read is
            printed as a text that is read as the same again.
    """
    result = _Parser(text).parse()
    try:
        again = _Parser(format_expr(result)).parse()
    except ExprSyntaxError as error:
        raise ExprSyntaxError(f"expression too large: in normal form, {error}", 0) from None
    if again != result:
        raise ExprSyntaxError("expression too complex: its normal form reads as another", 0)
    return result


def _floor_div(a: Expr, b: Expr) -> Expr:
    return cast(Expr, FloorDiv(a, b))


class _Parser:
    """Recursive descent.  Each rule returns the expression and a bound on its terms, which keeps expansion small."""

    def __init__(self, text: str) -> None:
        self.text, self.position, self.depth = text, 0, 0
        self.functions: set[sympy.Basic] = set()
        self.token, self.kind, self.start = "", "", 0
        self.advance()

    def advance(self) -> None:
        match = _TOKEN.match(self.text, self.position)
        if match is None:
            offset = cast(re.Match[str], _SPACE.match(self.text, self.position)).end()
            if offset < len(self.text):
                raise ExprSyntaxError(f"unexpected {self.text[offset]!r} in an expression", offset)
            self.token, self.kind, self.start = "", "end", offset
            return
        kind = "number" if match[1] else "name" if match[2] else "operator"
        self.token, self.kind = match[1] or match[2] or match[3], kind
        self.position = match.end()
        self.start = self.position - len(self.token)

    def take(self, token: str) -> bool:
        if self.kind == "operator" and self.token == token:
            self.advance()
            return True
        return False

    def expect(self, token: str) -> None:
        if not self.take(token):
            raise self.error(f"expected {token!r}")

    def error(self, message: str) -> ExprSyntaxError:
        found = f"found {self.token!r}" if self.token else "found the end"
        return ExprSyntaxError(f"{message}, {found}", self.start)

    def parse(self) -> Expr:
        if len(self.text) > _MAX_LENGTH:
            raise ExprSyntaxError(f"expression too large: {len(self.text)} characters, at most {_MAX_LENGTH}", 0)
        result, _ = self.sum()
        if self.kind != "end":
            raise self.error("expected the end of the expression")
        return normal(result)

    def sum(self) -> tuple[Expr, int]:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise ExprSyntaxError("expression nested too deeply", self.start)
        left, terms = self.product()
        while self.kind == "operator" and self.token in "+-":
            sign = 1 if self.token == "+" else -1
            self.advance()
            right, more = self.product()
            left, terms = self.bounded(left + sign * right, terms + more)
        self.depth -= 1
        return left, terms

    def product(self) -> tuple[Expr, int]:
        left, terms = self.unary()
        while self.kind == "operator" and self.token in ("*", "/", "//"):
            operator, place = self.token, self.start
            self.advance()
            right, more = self.unary()
            if operator == "*":
                left, terms = self.bounded(left * right, terms * more)
            elif normal(right) == 0:
                raise ExprSyntaxError("division by zero", place)
            elif operator == "/":
                left, terms = self.bounded(left / right, terms * more)
            else:
                left, terms = self.function(_floor_div, (left, right), terms * more + 1)
        return left, terms

    def unary(self) -> tuple[Expr, int]:
        if self.take("-"):
            self.depth += 1
            if self.depth > _MAX_DEPTH:
                raise ExprSyntaxError("expression nested too deeply", self.start)
            value, terms = self.unary()
            self.depth -= 1
            return -value, terms
        base, terms = self.atom()
        if self.take("**"):
            exponent = int(self.token) if re.fullmatch(r"\d\d?", self.token) else 0
            if not 2 <= exponent <= _MAX_EXPONENT:
                raise self.error(f"expected an exponent of 2 to {_MAX_EXPONENT}")
            self.advance()
            return self.bounded(base**exponent, terms**exponent)
        return base, terms

    def atom(self) -> tuple[Expr, int]:
        if self.kind == "number":
            if len(self.token) > _MAX_DIGITS:
                raise self.error("number too long")
            if not self.token.isdigit():
                raise self.error("expected a whole number")
            number = sympy.Integer(self.token)
            self.advance()
            return number, 1
        if self.kind == "name":
            name = self.token
            self.advance()
            if name in ("max", "min") and self.take("("):
                return self.extremum(sympy.Max if name == "max" else sympy.Min)
            return symbol(name), 1
        if self.take("("):
            result = self.sum()
            self.expect(")")
            return result
        raise self.error("expected a number, a symbol or '('")

    def extremum(self, function: Callable[..., Expr]) -> tuple[Expr, int]:
        args = [self.sum()]
        while self.take(","):
            args.append(self.sum())
        self.expect(")")
        return self.function(function, [e for e, _ in args], sum(terms for _, terms in args))

    def function(self, function: Callable[..., Expr], args: Sequence[Expr], terms: int) -> tuple[Expr, int]:
        """A floor or an extremum."""
        if terms > _MAX_TERMS or len(args) + sum(len(each.args) for each in self.functions) > _MAX_ARGUMENTS:
            raise ExprSyntaxError("expression too large", self.start)
        value = function(*map(normal, args))
        self.functions |= value.atoms(FloorDiv, sympy.Max, sympy.Min)
        return self.bounded(value, terms)

    def bounded(self, value: Expr, terms: int) -> tuple[Expr, int]:
        factors = sympy.Mul.make_args(value)
        degree = sum(abs(factor.as_base_exp()[1]) for factor in factors)
        if terms > _MAX_TERMS or degree > _MAX_FACTORS:
            raise ExprSyntaxError("expression too large", self.start)
        return value, terms
