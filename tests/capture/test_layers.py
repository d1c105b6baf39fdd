"""The captured prefix shows every kind of layer in every position, and its counts add up to the model."""

import pytest
import sympy
from hypothesis import given
from hypothesis import strategies as st

from dooly.capture.layers import can_thin, layer_kinds, plan_layers, shorten
from dooly.ir import evaluate, symbol, symbols_of

Nl = symbol("Nl")


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=40))
def test_the_prefix_covers_every_pair_and_counts_every_layer(kinds: list[str]) -> None:
    plan = plan_layers(tuple(kinds))
    pairs = list(zip([None, *kinds], kinds))
    values = {"Nl": len(kinds), **plan.values}
    counts = [evaluate(count, values) for count in plan.counts]
    assert set(pairs[: plan.depth]) == set(pairs)
    assert kinds[plan.depth - 1] == kinds[-1]
    shorter = range(1, plan.depth)
    assert not any(set(pairs[:depth]) == set(pairs) and kinds[depth - 1] == kinds[-1] for depth in shorter)
    assert set().union(*map(symbols_of, plan.counts)) <= values.keys()
    assert sum(counts) == len(kinds)
    assert min(counts) >= 1
    for pair in set(pairs):
        assert sum(count for count, shown in zip(counts, pairs) if shown == pair) == pairs.count(pair)


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=40))
def test_thinned_layers_show_the_same_pairs_and_count_every_layer(kinds: list[str]) -> None:
    whole, thin = plan_layers(tuple(kinds)), plan_layers(tuple(kinds), thin=True)
    assert set(thin.layers) <= set(range(whole.depth))
    shown = [kinds[layer] for layer in thin.layers]
    pairs = list(zip([None, *shown], shown))
    assert set(pairs) == set(zip([None, *kinds], kinds))
    assert shown[-1] == kinds[-1]
    counts = [evaluate(count, {"Nl": len(kinds), **thin.values}) for count in thin.counts]
    assert sum(counts) == len(kinds)
    assert min(counts) >= 1


def test_layers_said_by_a_list_or_a_number_of_first_ones_can_be_thinned_and_periods_cannot() -> None:
    deepseek = {"num_hidden_layers": 6, "first_k_dense_replace": 3}
    assert can_thin(deepseek)
    assert plan_layers(layer_kinds(deepseek), thin=True).layers == (0, 2, 3, 4)
    assert layer_kinds(shorten(deepseek, (0, 2, 3, 4))) == ((False,), (False,), (True,), (True,))
    assert can_thin({"num_hidden_layers": 4, "layer_types": ["a", "a", "b", "a"]})
    assert not can_thin({"num_hidden_layers": 4, "attn_layer_period": 2})


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


def test_models_without_layer_fields_are_homogeneous() -> None:
    assert len(set(layer_kinds({"num_hidden_layers": 7, "sliding_window": 128}))) == 1


def test_each_way_of_mixing_layers() -> None:
    dense_first = {"num_hidden_layers": 5, "first_k_dense_replace": 2}
    assert [kind[0] for kind in layer_kinds(dense_first)] == [False, False, True, True, True]
    sparse_step = {"num_hidden_layers": 4, "decoder_sparse_step": 2, "mlp_only_layers": [3]}
    assert [kind[0] for kind in layer_kinds(sparse_step)] == [False, True, False, False]
    pattern = {"num_hidden_layers": 6, "sliding_window_pattern": 3}
    assert [kind[0] for kind in layer_kinds(pattern)] == [False, False, True, False, False, True]
    periodic = {"num_hidden_layers": 4, "attn_layer_period": 4, "attn_layer_offset": 1, "expert_layer_period": 2}
    assert layer_kinds(periodic) == ((False, True), (True, False), (False, True), (False, False))


def test_a_shortened_configuration_cuts_the_lists_of_layers() -> None:
    config = {"num_hidden_layers": 3, "layer_types": ["a", "b", "a"], "mlp_only_layers": [], "name": [1, 2, 3]}
    assert shorten(config, range(2)) == {**config, "num_hidden_layers": 2, "layer_types": ["a", "b"]}
