"""An exported module at given numbers: built of plain integers, run once, no export anywhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from dooly.capture.build import explained
from dooly.capture.export import TORCH_DTYPES, Inputs
from dooly.capture.huggingface import build_transformer, forward, settings_of
from dooly.ir import evaluate, parse_expr
from dooly.provenance.observed import Observed
from dooly.provenance.watch import parameters, watched_whole
from dooly.provenance.witness import ModelWitness

__all__ = ["observe_module", "observe_transformer"]


def observe_module(
    factory: Callable[[Mapping[str, int]], torch.nn.Module], values: Mapping[str, int], inputs: Inputs, place: str
) -> Observed:
    """Run a module, which ``factory`` makes from ``values``, on inputs of the sizes that these values give.

    Raises:
        CaptureError: the module cannot be built, or its code fails.
    """
    with explained(place, "the module cannot be built"), torch.device("meta"):
        model = factory(values)
    tensors = [
        torch.empty(
            [int(evaluate(parse_expr(str(dim)), values)) for dim in dims], dtype=TORCH_DTYPES[dtype], device="meta"
        )
        for dtype, dims in inputs.values()
    ]
    return _seen(model, model, tensors, place)


def observe_transformer(witness: ModelWitness, place: str) -> Observed:
    """Run the ``transformers`` model of a witness with all its layers, on tensors without data.

    Raises:
        CaptureError: the library refuses the configuration, or its code fails.
    """
    model = build_transformer(place, settings_of(place, witness.config), witness.config)
    tokens = torch.empty((1, witness.values["T"]), dtype=torch.long, device="meta")
    rows = torch.empty(witness.values["L"], dtype=torch.long, device="meta")
    return _seen(model, forward(model), [tokens, rows], place)


def _seen(model: torch.nn.Module, call: Callable[..., Any], tensors: Sequence[torch.Tensor], place: str) -> Observed:
    step = torch.nn.Module()
    step.model = model
    with (
        explained(place, "the module cannot be run"),
        torch.no_grad(),
        FakeTensorMode(allow_non_fake_inputs=True),
        watched_whole(step) as watch,
    ):
        call(*tensors)
    state = dict((*model.named_parameters(), *model.named_buffers()))
    return Observed((*parameters(model, state), *watch.calls), ())
