"""Formulas for people: one line of text, LaTeX."""

import re
from typing import cast

import sympy

from dooly.batch import Batch
from dooly.fit.formula import Formula
from dooly.fit.terms import Contribution
from dooly.ir.expr import Expr, format_expr

__all__ = ["equation", "latex", "line", "sympy_text"]


def line(formula: Formula) -> str:
    """Everything on one line: equation, parameters with units and intervals, domain, held-out error.

    The numbers in the equation are us: FLOPs are divided by TFLOP/s and bytes by GB/s already.
    """
    held = formula.held
    start = f"{formula.name}: t_us = {equation(formula)} | {'; '.join(str(p) for p in formula.parameters)} | "
    if formula.lenders:
        return (
            f"{start}{held.points or 'no'} points of its own, parameters of {formula.lenders} operations like it: "
            f"misses theirs by {held.mape:.1%} (median), {held.worst_error:.1%} (90 %)"
        )
    domain = ", ".join(str(r) for r in formula.domain)
    without = "" if formula.residual is None else f" ({held.symbolic_mape:.1%} without residual)"
    disturbed = f", {held.disturbed} of them disturbed" if held.disturbed else ""
    return (
        f"{start}{domain} | held-out {held.mape:.1%}{without}, "
        f"worst {held.worst_error:+.1%} at {_brief(held.worst_point)}, "
        f"{held.points} points that scatter by {held.noise:.1%}{disturbed}"
    )


def equation(formula: Formula) -> str:
    """The symbolic part in us with numbers to four digits, e.g. ``2.99 + max(0.0839*T, 20.1 + 0.00819*T)``.

    What counts for some batches only stands in brackets behind the factor that is 1 for these and 0 for others.
    """
    values = {p.name: p.value for p in formula.parameters}
    sums: list[str] = []
    for within, terms in formula.by_batches.items():
        parts = [[_scaled(c, values[c.parameter]) for c in term] for term in terms]
        total = " + ".join(each[0] if len(each) == 1 else f"max({', '.join(each)})" for each in parts)
        sums.append(total if within == 1 else f"{_factors(within)}*[{total}]")
    return " + ".join(sums)


def _factors(within: Expr) -> str:
    """Each factor as it is 1 or 0: ``(1 - M)`` where sympy has ``M - 1`` and a sign."""
    bases = [base for base, _ in sympy.factor_list(within)[1]]
    return "*".join(
        f"(1 - {format_expr(base + 1)})" if base.as_coeff_Add()[0] == -1 else format_expr(base) for base in bases
    )


def _scaled(contribution: Contribution, value: float) -> str:
    rate = contribution.kind.rate
    scaled = contribution.quantity * sympy.Float(value if rate is None else 1.0 / (value * rate))
    expanded = cast(Expr, sympy.expand(scaled))
    parts = sorted(sympy.Add.make_args(expanded), key=lambda part: (bool(part.free_symbols), str(part)))
    return " + ".join(_monomial(part) for part in parts)


def _monomial(e: Expr) -> str:
    coefficient, rest = e.as_coeff_Mul()
    number = f"{float(coefficient):.4g}"
    if rest == 1:
        return number
    text = format_expr(rest)
    return f"{number}*({text})" if "/" in text else f"{number}*{text}"


def _brief(point: str) -> str:
    """The point's own text, or for a long list of requests what it amounts to."""
    if len(point) <= 60:
        return point
    batch = Batch.from_point(point)
    symbols = batch.symbols()
    return f"a {batch.kind} step ({', '.join(f'{name}={symbols[name]}' for name in 'RTSP')})"


def sympy_text(formula: Formula) -> str:
    """The symbolic part as sympy writes it, then its parameters: ``name: launch + Max(...); launch = 3 us``."""
    values = "; ".join(f"{p.name} = {p.value:.6g} {p.unit}" for p in formula.parameters)
    return f"{formula.name}: {formula.expression}; {values}"


def latex(formula: Formula) -> str:
    """The symbolic part with parameters by name: ``t = launch + max(...)``, for a notebook or a paper."""
    named = {
        sympy.Symbol(p.name, positive=True): sympy.Symbol(
            r"\mathrm{" + re.sub("_", r"\\_", p.name) + "}", positive=True
        )
        for p in formula.parameters
    }
    return r"t_{\mathrm{us}} = " + str(sympy.latex(formula.expression.xreplace(named)))
