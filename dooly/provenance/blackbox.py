"""The engine's model at given numbers: built without symbols, run once, every operation noted.

Shares nothing with capture but the engine's modules: no ``ConfigInt``, no symbolic sizes, no FX graph, no conversion.
"""

# pyright: reportPrivateUsage=false
# PyTorch and vLLM have no public way to do this.
from __future__ import annotations

from collections.abc import Hashable, Sequence
from contextlib import ExitStack
from dataclasses import replace

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from vllm.config import set_current_vllm_config
from vllm.forward_context import set_forward_context
from vllm.ir import enable_torch_wrap

from dooly.capture.build import build, explained
from dooly.capture.frontend import described, names_of
from dooly.capture.fx import COMPILED
from dooly.capture.kernels import declare_shapes
from dooly.capture.mixers import opened
from dooly.capture.options import Options
from dooly.capture.schemes import schemes_of
from dooly.capture.step import Step
from dooly.capture.structure import layer_kinds
from dooly.capture.trace_hooks import module_paths, without_autocast
from dooly.errors import CaptureError
from dooly.provenance.observed import Observed
from dooly.provenance.watch import Watch, parameters
from dooly.provenance.witness import ModelWitness

__all__ = ["observe"]


def observe(witness: ModelWitness, options: Options, place: str) -> Observed:
    """Run one step at a witness, all layers of its stage, on tensors without data.

    Raises:
        CaptureError: the engine refuses the configuration, or its code fails.
    """
    options, tokens, rows = replace(options, parallel=witness.parallel), witness.values["T"], witness.values["L"]
    with build(witness.config, options, place, stage=witness.stage.rank, plain=True) as built:
        _check_layers(layer_kinds(built.model)[witness.stage.start :], witness.stage.kinds, place)
        declare_shapes()
        names = names_of(built.model)
        step = Step(built.model, built.vllm_config.model_config.dtype)
        named = (*built.model.named_parameters(), *built.model.named_buffers())
        with ExitStack() as stack:
            stack.enter_context(explained(place, "the engine's code for this model fails"))
            stack.enter_context(set_current_vllm_config(built.vllm_config))
            stack.enter_context(set_forward_context(None, built.vllm_config))
            stack.enter_context(opened(built.model))
            stack.enter_context(enable_torch_wrap())
            stack.enter_context(torch.no_grad())
            stack.enter_context(without_autocast())
            stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
            shapes = {name: p.shape[::-1] if name in built.transposed else p.shape for name, p in named}
            state = {f"model.{name}": torch.empty(shapes[name], dtype=p.dtype, device="meta") for name, p in named}
            ids, positions = (torch.empty(tokens, dtype=torch.long, device="meta") for _ in range(2))
            indices = torch.empty(rows, dtype=torch.long, device="meta")
            turned = {f"model.{name}": state[f"model.{name}"].t() for name in built.transposed}
            hook = step.register_forward_hook(lambda *_: _replace(built.model, state))
            torch.func.functional_call(step, {**state, **turned}, (ids, positions, indices))
            hook.remove()
            weights = {name: state[f"model.{name}"] for name, _ in named}
            path = stack.enter_context(module_paths(step))
            watch = stack.enter_context(Watch(path))
            for name in built.transposed:
                path.append(name.rpartition(".")[0])
                state[f"model.{name}"] = state[f"model.{name}"].t()
                path.pop()
            torch.func.functional_call(step, state, (ids, positions, indices))
        layers = [(call.target, str(call.arguments.get("layer_name"))) for call in watch.calls]
        schemes = schemes_of(built.model, built.vllm_config)
        calls = [
            replace(call, arguments={**call.arguments, "scheme": schemes[call.path]})
            if call.target.startswith(COMPILED) and call.path in schemes
            else call
            for call in watch.calls
        ]
        return Observed((*parameters(built.model, weights), *calls), described(built, names, layers))


def _check_layers(found: Sequence[Hashable], kinds: Sequence[Hashable], place: str) -> None:
    """Check that the first layers of a model are alike where they are in the whole model.

    Raises:
        CaptureError: a model of fewer layers is made in another way.
    """
    alike = [[each.index(kind) for kind in each] for each in (list(found)[: len(kinds)], list(kinds))]
    if alike[0] != alike[1]:
        raise CaptureError(f"{place}: its first {len(kinds)} layers alone are other layers")


def _replace(model: torch.nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Buffers that the model replaced in its first step: every later step finds them as they are."""
    for name, tensor in model.named_buffers():
        state[f"model.{name}"] = tensor
