"""The captured prefix shows every kind of layer in every position, and its counts add up to the model."""

import pytest
import sympy
from hypothesis import given
from hypothesis import strategies as st

from dooly.capture.layers import plan_layers, shorten
from dooly.ir import evaluate, symbol, symbols_of

Nl = symbol("Nl")


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=40))
def test_the_captured_layers_show_every_pair_and_count_every_layer(kinds: list[str]) -> None:
    plan = plan_layers(tuple(kinds))
    pairs = list(zip([None, *kinds], kinds))
    shown = [kinds[layer] for layer in plan.layers]
    captured = list(zip([None, *shown], shown))
    assert set(captured) == set(pairs)
    assert shown[-1] == kinds[-1]
    values = {"Nl": len(kinds), **plan.values}
    counts = [evaluate(count, values) for count in plan.counts]
    assert set().union(*map(symbols_of, plan.counts)) <= values.keys()
    assert sum(counts) == len(kinds)
    assert min(counts) >= 1
    for pair in set(pairs):
        assert sum(count for count, each in zip(counts, captured) if each == pair) == pairs.count(pair)


def test_equal_layers_need_two() -> None:
    assert plan_layers(("x",) * 80).counts == (sympy.Integer(1), Nl - 1)
    assert plan_layers(("x",) * 2).counts == (sympy.Integer(1), Nl - 1)
    assert plan_layers(("x",)).counts == (sympy.Integer(1),)


PATTERNS = {
    "Gemma 2": ("ab", 0),
    "Gemma 3": ("aaaaab", 4),
    "Command-R": ("aaab", 0),
    "Jamba": ("ababcbab", 0),
    "Qwen3-Next": ("aaab", 0),
}


@pytest.mark.parametrize("model", PATTERNS)
def test_models_that_differ_in_depth_alone_have_equal_counts(model: str) -> None:
    pattern, rest = PATTERNS[model]
    plans = [plan_layers(tuple(pattern * times + pattern[:rest])) for times in (3, 4, 9)]
    assert len({plan.counts for plan in plans}) == 1
    assert all(set(plan.values) == {f"N{kind}" for kind in range(2, len(set(pattern)) + 1)} for plan in plans)


def test_a_transition_that_no_number_of_layers_decides_has_a_symbol_of_its_own() -> None:
    one, other = plan_layers(tuple("aabbaabb")), plan_layers(tuple("aabababb"))
    assert one.values != other.values
    assert any("to" in name for name in one.values)


def test_a_shortened_configuration_cuts_what_has_an_entry_for_each_layer() -> None:
    config = {"num_hidden_layers": 3, "layer_types": ["a", "b", "a"], "mlp_only_layers": [], "pattern": "M*M", "n": 3}
    cut = {**config, "num_hidden_layers": 2, "layer_types": ["a", "b"], "pattern": "M*"}
    assert shorten(config, 2) == cut
