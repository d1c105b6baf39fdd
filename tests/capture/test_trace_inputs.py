"""Quotients that the model relies on are inputs of the trace, so sizes stay polynomials."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dooly.capture.trace_inputs import Atoms, compute
from dooly.ir import Expr, FloorDiv, evaluate, normal, symbol

TP, Nq, Nkv, D, Im, V = map(symbol, ("TP", "Nq", "Nkv", "D", "I", "V"))
PADDED = 64 * FloorDiv(V + 63, 64)
VALUES = {"TP": 4, "Nq": 32, "Nkv": 8, "D": 128, "I": 14336, "V": 128256}
FACTS = [(TP, PADDED), (TP, Nq), (TP, Nkv), (Nkv, Nq), (TP, Im)]


def back(atoms: Atoms, e: Expr) -> Expr:
    return normal(atoms.rewrite(e).xreplace({symbol(name): meaning for name, meaning in atoms.meanings.items()}))


@pytest.mark.parametrize(
    "size", [D * Nq / TP, D * (Nq + 2 * Nkv) / TP, 2 * Im / TP, PADDED / TP, PADDED, Nq, V, V - PADDED / TP, TP, D]
)
def test_a_size_over_the_inputs_is_a_polynomial_that_means_the_same(size: Expr) -> None:
    atoms = Atoms(VALUES, FACTS)
    rewritten = atoms.rewrite(size)
    assert not rewritten.has(FloorDiv)
    assert all(not power.exp.is_negative for power in rewritten.atoms(type(1 / TP)))
    assert back(atoms, size) == normal(size)


def test_without_ranks_the_inputs_are_the_configuration() -> None:
    values = {name: value for name, value in VALUES.items() if name != "TP"}
    assert Atoms(values, [(Nkv, Nq)]).values == dict(sorted(values.items()))


def test_a_vocabulary_that_fills_its_padding_is_told_apart_from_it() -> None:
    assert Atoms(VALUES, FACTS).values["V"] == VALUES["V"] - 1
    assert Atoms({**VALUES, "V": 128250}, FACTS).values["V"] == 128250


@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 50))
def test_computing_agrees_with_evaluating(a: int, b: int, c: int) -> None:
    values = {"D": a, "Nq": b, "TP": c}
    for e in (D * Nq + 3, FloorDiv(D * Nq, TP), D**2 * (Nq + TP), FloorDiv(D + 63, 64) * 64 - 5 * Nq):
        assert compute(normal(e), values) == evaluate(normal(e), values)
