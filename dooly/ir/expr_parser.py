"""Reads dimensions by a small allow-list grammar: numbers, names, ``+ - * / // **``, ``max``, ``min``, parentheses.

Nothing is evaluated, and what is larger than any dimension could be is refused before it costs time.
"""

import re
from collections.abc import Callable
from typing import cast

import sympy

from dooly.ir.expr import Expr, FloorDiv, normal, symbol

__all__ = ["ExprSyntaxError", "parse_expr"]


class ExprSyntaxError(ValueError):
    """Text is not an expression.  ``offset`` is where, counted in characters from the start."""

    def __init__(self, message: str, offset: int) -> None:
        self.offset = offset
        super().__init__(message)


_TOKEN = re.compile(r"\s*(?:(\d+\.\d*(?:e[+-]?\d+)?|\d+(?:e[+-]?\d+)?)|([A-Za-z_]\w*)|(\*\*|//|[-+*/(),]))")
_SPACE = re.compile(r"\s*")
_MAX_TERMS, _MAX_FACTORS, _MAX_DEPTH, _MAX_DIGITS, _MAX_EXPONENT = 500, 32, 40, 30, 16


def parse_expr(text: str) -> Expr:
    """Read an expression and return its normal form.

    Raises:
        ExprSyntaxError: not an expression of the grammar, or larger than any dimension could be.
    """
    return _Parser(text).parse()


class _Parser:
    """Recursive descent.  Each rule returns the expression and a bound on its terms, which keeps expansion small."""

    def __init__(self, text: str) -> None:
        self.text, self.position, self.depth = text, 0, 0
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
        result, _ = self.sum()
        if self.kind != "end":
            raise self.error("expected the end of the expression")
        result = normal(result)
        self.check_printable(result)
        return result

    def check_printable(self, e: Expr) -> None:
        """What can be read can be printed and read again."""
        numbers = [part for n in e.atoms(sympy.Rational) for part in (abs(int(n.p)), int(n.q))]
        if any(number >= 10**_MAX_DIGITS for number in numbers):
            raise ExprSyntaxError("expression too large: a number too long to print", 0)
        if any(abs(power.exp) > _MAX_EXPONENT for power in e.atoms(sympy.Pow)):
            raise ExprSyntaxError(f"expression too large: an exponent above {_MAX_EXPONENT}", 0)
        if e.has(sympy.oo, -sympy.oo, sympy.zoo, sympy.nan):
            raise ExprSyntaxError("expression too large: a number that is not finite", 0)

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
            elif right == 0:
                raise ExprSyntaxError("division by zero", place)
            elif operator == "/":
                left, terms = self.bounded(left / right, terms * more)
            else:
                left, terms = cast(Expr, FloorDiv(normal(left), normal(right))), terms + 1
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
            number = sympy.Integer(self.token) if self.token.isdigit() else sympy.Float(float(self.token))
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
        if len(args) > 4:
            raise self.error("expected at most 4 arguments")
        return self.bounded(function(*(normal(e) for e, _ in args)), sum(terms for _, terms in args))

    def bounded(self, value: Expr, terms: int) -> tuple[Expr, int]:
        factors = sympy.Mul.make_args(value)
        degree = sum(abs(factor.as_base_exp()[1]) for factor in factors)
        if terms > _MAX_TERMS or degree > _MAX_FACTORS:
            raise ExprSyntaxError("expression too large", self.start)
        return value, terms
