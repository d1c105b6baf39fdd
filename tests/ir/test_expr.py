"""Expressions: normal form, text, allow-list parser."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dooly.ir import evaluate, exact_div, format_expr, normal, parse_expr, symbol, symbols_of
from dooly.ir.expr_parser import ExprSyntaxError
from tests.strategies import NAMES, expressions


@given(expressions())
def test_text_round_trip(e):
    assert parse_expr(format_expr(e)) == e


@given(expressions(), st.lists(st.integers(1, 50), min_size=len(NAMES), max_size=len(NAMES)))
def test_text_keeps_the_value(e, numbers):
    values = dict(zip(NAMES, numbers, strict=True))
    assert evaluate(parse_expr(format_expr(e)), values) == evaluate(e, values)


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("D*Nq + 2*D*Nkv", "D*(2*Nkv + Nq)"),
        ("b + a", "a + b"),
        ("((V+63)//64)*64", "64*((V + 63)//64)"),
        ("2*(a+b)", "2*(a + b)"),
        ("D*Nq/TP", "D*Nq/TP"),
        ("(6*a)//(2*a)", "3"),
        ("a//1", "a"),
        ("max(Nkv, H)", "max(H, Nkv)"),
        ("max(1, Nkv)", "Nkv"),
        ("max(A, max(B, C, D, E))", "max(A, B, C, D, E)"),
        ("(7/2)//(1/3)", "10"),
        ("7//2", "3"),
        ("a*a*a*a*a", "a**5"),
        ("max(0, (a - b)//D)", "max((a - b)//D, 0)"),
        ("N", "N"),
    ],
)
def test_canonical_text(text, printed):
    assert format_expr(parse_expr(text)) == printed


def test_equal_dimensions_are_equal_whatever_the_spelling():
    assert parse_expr("a + b") == parse_expr("b + a")
    assert parse_expr("D*(Nq + 2*Nkv)") == parse_expr("2*Nkv*D + Nq*D")


@pytest.mark.parametrize(
    ("text", "message", "offset"),
    [
        ("", "expected a number", 0),
        ("a +", "found the end", 3),
        ("a b", "expected the end", 2),
        ("__import__('os')", "expected the end", 10),
        ("a.b", "unexpected '.'", 1),
        ("1//0", "division by zero", 1),
        ("a**99", "exponent", 3),
        ("(" * 100 + "a" + ")" * 100, "nested too deeply", 40),
        ("(a+b+c+d)**4*(a+b+c+d)**4", "too large", 12),
        ("9" * 40, "number too long", 0),
        ("1e9", "expected a whole number", 0),
        ("1.5*a", "expected a whole number", 0),
        ("a//0.0", "expected a whole number", 3),
        ("1/(a*(b + 1) - a*b - a)", "division by zero", 1),
        ("max(a, b)//(a - a)", "division by zero", 9),
        ("a" * 2001, "2001 characters", 0),
        ("max(a0, b0, c0, d0)*" * 4 + "max(a0, b0)", "too large", 79),
        ("//".join("abcdefghijkl"), "too large", 28),
        ("*".join(["9" * 20] * 2), "number too long", 0),
        ("*".join(["a"] * 20), "expected an exponent of 2 to 16", 0),
        ("*".join(["a"] * 999), "too large", 65),
        ("*".join(f"a{i}" for i in range(300)), "too large", 121),
        ("(1/(1/(a+b+c+d)**4))**4", "too large", 18),
        ("((a+b+c+d)**4*e//e)**4", "too large", 13),
        ("max((a+b+c+d)**4)**4", "too large", 16),
    ],
)
def test_text_outside_the_grammar_is_refused(text, message, offset):
    with pytest.raises(ExprSyntaxError, match=message) as caught:
        parse_expr(text)
    assert caught.value.offset == offset


@given(st.text(alphabet="abNT01+-*/()., \tmax", max_size=60))
def test_any_text_is_an_expression_or_a_syntax_error(text):
    try:
        e = parse_expr(text)
    except ExprSyntaxError:
        return
    assert parse_expr(format_expr(e)) == e


def test_exact_division_needs_a_fact():
    d, nq, nkv, tp = map(symbol, ("D", "Nq", "Nkv", "TP"))
    facts = [(tp, nq), (tp, nkv)]
    assert exact_div(d * (nq + 2 * nkv), tp, facts) == normal(d * nq / tp + 2 * d * nkv / tp)
    assert exact_div(d * nq, tp * (nq / tp), facts) == d
    assert exact_div(d * (nq + 1), tp, facts) is None
    assert exact_div(nq, tp, []) is None


def test_symbols_have_one_identity():
    assert symbol("T") is symbol("T")
    assert symbols_of(parse_expr("T*H + T")) == {"T", "H"}
