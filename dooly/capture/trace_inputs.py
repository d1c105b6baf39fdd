"""Configuration values as the independent inputs of a trace.

PyTorch's symbolic sizes know floor division only, and ``(D*Nq)//TP`` of them does not simplify.  Where the model
asserted that ``TP`` divides ``Nq``, the trace therefore gets the quotient ``q`` as its input and ``q*TP`` stands for
``Nq``: every size is then a polynomial of the inputs, and reading ``q`` as ``Nq/TP`` gives the exact expression back.
A number that divides a symbol (a rotated head has an even size) is treated alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import sympy

from dooly.ir.expr import Expr, FloorDiv, evaluate, normal, symbol, symbols_of

__all__ = ["Atoms", "compute"]


@dataclass(frozen=True)
class _Quotient:
    """An input that stands for ``meaning``; ``dividend`` equals ``divisor`` times it."""

    atom: sympy.Symbol
    dividend: Expr
    divisor: Expr

    @property
    def meaning(self) -> Expr:
        return normal(self.dividend / self.divisor)


class Atoms:
    """The inputs of a trace: configuration symbols, and quotients by ``divisor`` (None: all) for what it divides.

    Attributes:
        values: the inputs with values that take the same branches as the configuration's, in a fixed order.
        meanings: what each input is in configuration symbols.
    """

    def __init__(
        self, values: Mapping[str, int], facts: Iterable[tuple[Expr, Expr]], divisor: str | None = "TP"
    ) -> None:
        self._symbols: dict[sympy.Symbol, Expr] = {}
        self._quotients: list[_Quotient] = []
        divided = [
            (below, above)
            for below, above in facts
            if divisor is None or below == symbol(divisor) or (below.is_Integer and above.is_Symbol)
        ]
        for below, dividend in sorted(divided, key=lambda fact: not fact[1].is_Symbol):
            if dividend in self._symbols:
                continue
            quotient = _Quotient(symbol(f"q{len(self._quotients)}"), dividend, below)
            self._quotients.append(quotient)
            if dividend.is_Symbol:
                self._symbols[cast(sympy.Symbol, dividend)] = quotient.atom * below
        self.meanings: dict[str, Expr] = {}
        self.values: dict[str, int] = {}
        for name in sorted(values):
            if symbol(name) not in self._symbols:
                self.meanings[name], self.values[name] = symbol(name), values[name]
        for quotient in self._quotients:
            self.meanings[str(quotient.atom)] = quotient.meaning
            self.values[str(quotient.atom)] = int(evaluate(quotient.meaning, values))
            for name in symbols_of(quotient.dividend) & self.values.keys():
                if not quotient.dividend.is_Symbol and evaluate(quotient.dividend, values) == values[name]:
                    self.values[name] -= 1  # V = padded V is no law, but PyTorch would merge the two symbols

    def rewrite(self, e: Expr) -> Expr:
        """The expression over the inputs."""
        return normal(sum((self._term(term) for term in sympy.Add.make_args(normal(e))), sympy.Integer(0)))

    def _term(self, term: Expr) -> Expr:
        for quotient in self._quotients:
            if quotient.dividend.is_Symbol:
                continue
            times = quotient.atom * quotient.divisor
            for whole, stands in ((quotient.meaning, quotient.atom), (quotient.dividend, times)):
                factor = normal(term / whole)
                if not factor.has(FloorDiv) and sympy.fraction(factor)[1] == 1:
                    return factor.xreplace(self._symbols) * stands
        return normal(term.xreplace(self._symbols))


def compute(e: Expr, inputs: Mapping[str, Any]) -> Any:
    """Value of an expression over any integers, symbolic sizes included.

    Raises:
        KeyError: a symbol is not among the inputs.
        TypeError: the expression is not a size.
    """
    if e.is_Integer:
        return int(e)
    if e.is_Symbol:
        return inputs[str(e)]
    if isinstance(e, FloorDiv):
        return compute(cast(Expr, e.args[0]), inputs) // compute(cast(Expr, e.args[1]), inputs)
    above, below = sympy.fraction(e)
    if below != 1:
        return compute(above, inputs) // compute(below, inputs)
    if e.is_Mul:
        return _fold(e, inputs, lambda a, b: a * b)
    if e.is_Add:
        return _fold(e, inputs, lambda a, b: a + b)
    if e.is_Pow and e.args[1].is_Integer and int(cast(sympy.Integer, e.args[1])) > 0:
        base, result = compute(cast(Expr, e.args[0]), inputs), 1
        for _ in range(int(cast(sympy.Integer, e.args[1]))):
            result = result * base
        return result
    raise TypeError(f"not a size: {sympy.srepr(e)} over {symbols_of(e)}")


def _fold(e: Expr, inputs: Mapping[str, Any], combine: Callable[[Any, Any], Any]) -> Any:
    result, *rest = (compute(cast(Expr, argument), inputs) for argument in e.args)
    for value in rest:
        result = combine(result, value)
    return result
