"""Integers that carry expressions behave as integers, and their expressions say what they are."""

import copy
import pickle
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dooly.capture.configint import ConfigInt, Facts, expression
from dooly.ir import evaluate, exact_div, symbol

VALUES = {"A": 12, "B": 4, "C": 7, "N": 64}
H, TP = symbol("H"), symbol("TP")

Program = Callable[[Facts | None], int]
"""Arithmetic over configuration values; with None over plain integers."""


def leaves() -> st.SearchStrategy[Program]:
    def named(name: str) -> Program:
        return lambda facts: VALUES[name] if facts is None else ConfigInt(VALUES[name], symbol(name), facts)

    return st.sampled_from(sorted(VALUES)).map(named) | st.integers(1, 9).map(lambda number: lambda _: number)


def combined(parts: st.SearchStrategy[Program]) -> st.SearchStrategy[Program]:
    def combine(operator: str, left: Program, right: Program) -> Program:
        def run(facts: Facts | None) -> int:
            a, b = left(facts), right(facts)
            if operator == "+":
                return a + b
            if operator == "*":
                return a * b
            if operator == "-" and a >= b:
                return a - b
            if operator == "//" and b > 0:
                return a // b
            if operator == "%" and b > 0:
                return a % b
            return a

        return run

    return st.builds(combine, st.sampled_from("+*-%") | st.just("//"), parts, parts)


@given(st.recursive(leaves(), combined, max_leaves=8))
def test_the_expression_evaluates_to_the_value(program: Program) -> None:
    facts = Facts()
    value = program(facts)
    assert evaluate(expression(value), VALUES) == int(value)


@given(st.recursive(leaves(), combined, max_leaves=8))
def test_the_value_is_what_plain_integers_give(program: Program) -> None:
    facts = Facts()
    value, plain = program(facts), program(None)
    assert type(plain) is int
    assert value == plain
    assert hash(value) == hash(plain)
    for divisor, dividend in facts:
        assert evaluate(dividend, VALUES) % evaluate(divisor, VALUES) == 0


@pytest.fixture
def facts() -> Facts:
    return Facts()


def test_a_division_is_exact_once_the_code_has_checked_it(facts: Facts) -> None:
    heads, ranks = ConfigInt(32, symbol("Nq"), facts), ConfigInt(4, TP, facts)
    assert (heads // ranks).expr != symbol("Nq") / TP
    assert heads % ranks == 0
    assert (heads // ranks).expr == symbol("Nq") / TP
    assert (heads * 128 // ranks).expr == 128 * symbol("Nq") / TP
    assert list(facts) == [(TP, symbol("Nq"))]


def test_a_fact_that_follows_is_not_recorded(facts: Facts) -> None:
    heads, ranks = ConfigInt(32, symbol("Nq"), facts), ConfigInt(4, TP, facts)
    assert heads % ranks == 0
    assert (2 * heads) % ranks == 0
    assert (heads * ranks) % ranks == 0
    assert len(list(facts)) == 1


def test_a_check_of_alignment_is_no_law_of_the_model(facts: Facts) -> None:
    assert ConfigInt(4096, H, facts) % 32 == 0
    assert list(facts) == []


def test_padding_twice_is_padding_once(facts: Facts) -> None:
    def pad(size: int) -> int:
        return (size + 63) // 64 * 64

    once = pad(ConfigInt(128256, symbol("V"), facts))
    assert expression(pad(once)) == expression(once)


def test_it_passes_for_an_integer(facts: Facts) -> None:
    value = ConfigInt(3, H, facts)
    assert isinstance(value, int)
    assert [0, 1, 2, 3][value] == 3
    assert list(range(value)) == [0, 1, 2]
    assert {3: "three"}[value] == "three"
    assert value == 3
    assert 2 < value < 4
    assert ["x"] * value == ["x", "x", "x"]
    assert f"{value}" == "3"
    assert divmod(value, 2) == (1, 1)


def test_what_is_no_integer_arithmetic_gives_plain_values(facts: Facts) -> None:
    value = ConfigInt(4, H, facts)
    assert value**-0.5 == 0.5
    assert value * 0.5 == 2.0
    assert value / 2 == 2.0
    assert pow(value, 2, 3) == 1
    assert type(int(value)) is int
    assert (value**2).expr == H**2


def test_copies_keep_the_expression_and_pickles_do_not_carry_it(facts: Facts) -> None:
    value = ConfigInt(4, H, facts)
    assert copy.deepcopy({"size": value})["size"] is value
    assert copy.copy(value) is value
    assert type(pickle.loads(pickle.dumps(value))) is int


def test_exact_division_agrees_with_the_ir(facts: Facts) -> None:
    facts.add(symbol("Nkv") * 8, symbol("Nkv"))
    assert list(facts) == []
    facts.add(symbol("Nq") / TP, symbol("Nkv") / TP)
    assert list(facts) == [(symbol("Nkv"), symbol("Nq"))]
    assert exact_div(symbol("Nq"), symbol("Nkv"), facts) == symbol("Nq") / symbol("Nkv")
