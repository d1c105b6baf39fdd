"""How often an operation counts, by the layer that its module is in."""

import pytest
import sympy
import torch

from dooly.capture.frontend import counted_by
from dooly.capture.structure import keep_layers
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


def test_a_model_of_two_stacks_of_layers_is_refused_before_it_is_traced() -> None:
    """Tracing both would take minutes."""
    stacks = {name: torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(3)) for name in "HL"}
    with pytest.raises(CaptureError, match="L: a second list of layers beside H; a model of several is not captured"):
        keep_layers(torch.nn.ModuleDict(stacks), [0, 1])
    other = torch.nn.ModuleDict({"H": stacks["L"], "vision": torch.nn.ModuleList(torch.nn.ReLU() for _ in range(3))})
    keep_layers(other, [0, 1])
    assert len(other["H"]) == 2
