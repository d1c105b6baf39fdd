"""How often an operation counts, by the layer that its module is in."""

import pytest
import sympy

from dooly.capture.frontend import counted_by
from dooly.errors import CaptureError
from dooly.ir import symbol

pytestmark = pytest.mark.engine


def test_layers_count_as_often_as_those_that_they_stand_for() -> None:
    count = counted_by({0: sympy.Integer(1), 1: symbol("Nl") - 1}, "model.layers")
    assert count("model.layers.1.mlp.down_proj.weight") == symbol("Nl") - 1
    assert count("model.embed_tokens.weight") == 1


def test_a_layer_that_was_not_asked_for_is_refused_by_its_name() -> None:
    """A model whose stacks of layers have a length of their own, and run several times in a step."""
    count = counted_by({0: sympy.Integer(1), 1: sympy.Integer(1)}, "model.H_module.layers")
    with pytest.raises(CaptureError, match=r"model\.H_module\.layers\.2\.self_attn: a layer beyond the 2 that were"):
        count("model.H_module.layers.2.self_attn")
