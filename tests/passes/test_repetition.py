"""Layers are told apart by what they do: by their operations and types, not by their number."""

import pytest

from dooly.ir import parse_program
from dooly.passes.repetition import layer_classes

LAYER = """
  %n{i} = vllm_ir.rms_norm(%{x}, %g{i}) {{epsilon = 1e-05}} : bf16[T, H] at "model.layers.{i}.norm"
  %y{i} = aten.linear(%n{i}, %w{i}) : bf16[T, {wide}] at "model.layers.{i}.up"
  %z{i} = aten.linear(%y{i}, %v{i}) : bf16[T, H] at "model.layers.{i}.down"
"""
WEIGHTS = """
  %g{i} = weight() : bf16[H] at "model.layers.{i}.norm.weight"
  %w{i} = weight() : bf16[{wide}, H] at "model.layers.{i}.up.weight"
  %v{i} = weight() : bf16[H, {wide}] at "model.layers.{i}.down.weight"
"""


def layers(*widths: str):
    named = list(enumerate(widths))
    weights = "".join(WEIGHTS.format(i=i, wide=wide) for i, wide in named)
    body = "".join(LAYER.format(i=i, wide=wide, x=f"z{i - 1}" if i else "x") for i, wide in named)
    header = 'graph "g" { config H = 64, I = 96, J = 96 request T captured 0 %x = input() : bf16[T, H]'
    return parse_program(f"{header}{weights}{body} return %z{len(widths) - 1} }}").graphs[0]


def test_equal_layers_are_one_class_wherever_they_stand():
    assert layer_classes(layers("I", "I", "I")) == ((0, 1, 2),)
    assert layer_classes(layers("I", "2*I", "I")) == ((0, 2), (1,))


def test_sizes_that_are_equal_at_this_configuration_only_do_not_count():
    assert layer_classes(layers("I", "J")) == ((0,), (1,))


@pytest.mark.engine
@pytest.mark.parametrize(
    ("model", "classes"),
    [
        ("llama-3.1-8b", ((0,), (1,))),  # the first has no residual to add
        ("gemma-2-9b", ((0,), (1, 3), (2,))),  # full attention at odd numbers: 1 and 3 are the same work
        ("gemma-3-4b", ((0,), (4, 6), (5,))),  # 6 follows a layer of full attention, and is like 4, which does not
    ],
)
def test_captured_layers_of_one_kind_are_isomorphic(model, classes):
    from tests.captures import captured

    assert layer_classes(captured(model)) == classes
