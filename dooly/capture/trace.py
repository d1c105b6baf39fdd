"""One engine step as an FX graph whose inputs are tokens, positions, logit rows and the configuration itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch._dynamo import config as _dynamo_config
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import get_proxy_mode, get_proxy_slot, make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from vllm.config import set_current_vllm_config
from vllm.forward_context import set_forward_context
from vllm.ir import enable_torch_wrap

from dooly.capture.build import Built
from dooly.capture.configint import ConfigInt
from dooly.capture.kernels import declare_shapes
from dooly.capture.mixers import opened
from dooly.capture.step import INPUTS, Step
from dooly.capture.symbolic_attributes import kept_tensors, rebound
from dooly.capture.trace_hooks import ModelCode, annotated, last_node
from dooly.capture.trace_inputs import Atoms, compute
from dooly.errors import CaptureError
from dooly.ir.expr import Expr, symbol

__all__ = ["Trace", "trace"]

_HINTS = {"T": 1021, "L": 17}
"""Sizes that decide data-independent branches while tracing; no dimension of the result depends on them."""


@dataclass(frozen=True)
class Trace:
    """The FX graph of a step and what its symbols and nodes mean.

    Attributes:
        module: the graph; its placeholders are ``INPUTS`` and then the configuration.
        meanings: PyTorch's size symbols as expressions over ours.
        weights: nodes that create a parameter or buffer, with its name.
    """

    module: torch.fx.GraphModule
    meanings: Mapping[Any, Expr]
    weights: Mapping[str, str]


def trace(built: Built) -> Trace:
    """Trace one step with the configuration as inputs; the model is left as it was.

    Raises:
        CaptureError: a size reached PyTorch as a plain number although the configuration decides it.
    """
    declare_shapes()
    atoms = Atoms(built.values, built.facts)
    step = Step(built.model, built.vllm_config.model_config.dtype)
    names = list(atoms.values)
    weights: dict[str, str] = {}

    def run(*inputs: Any) -> torch.Tensor:
        bound = dict(zip(names, inputs[len(INPUTS) :]))
        tracer = cast(Any, get_proxy_mode()).tracer

        def size(value: ConfigInt | Expr) -> Any:
            return compute(atoms.rewrite(value.expr if isinstance(value, ConfigInt) else value), bound)

        with ExitStack() as stack:
            stack.enter_context(annotated(tracer.graph, step))
            state = {}
            for name, shape in built.sizes.items():
                like = _tensor(built.model, name)
                tensor = torch.empty([size(dim) for dim in shape], dtype=like.dtype, device="meta")
                weights[last_node(tracer.graph).name] = name
                if name in built.transposed:
                    tensor = tensor.t()
                    last_node(tracer.graph).meta["module_path"] = name.rpartition(".")[0]
                state[f"model.{name}"] = tensor
            stack.enter_context(kept_tensors(step))
            stack.enter_context(rebound((built.model, built.vllm_config.model_config.hf_config, *built.groups), size))
            stack.enter_context(opened(built.model))
            stack.enter_context(ModelCode(tracer.graph))
            stack.callback(step.register_forward_hook(_replaced(built.model, state, weights, tracer)).remove)
            return torch.func.functional_call(step, state, inputs[: len(INPUTS)])

    environment = ShapeEnv(duck_shape=False, specialize_zero_one=False)
    with ExitStack() as stack:
        stack.enter_context(set_current_vllm_config(built.vllm_config))
        stack.enter_context(set_forward_context(None, built.vllm_config))
        stack.enter_context(enable_torch_wrap())  # an engine that ran in this process may have unwrapped its operations
        stack.enter_context(torch.no_grad())
        # functions that the engine compiles run as plain ones; remembering results costs more than it saves in one pass
        stack.enter_context(_dynamo_config.patch(error_on_nested_fx_trace=False, fake_tensor_cache_enabled=False))
        fake = FakeTensorMode(shape_env=environment, allow_non_fake_inputs=True)
        tokens, rows = _input(fake, _HINTS["T"]), _input(fake, _HINTS["L"])
        with fake:
            positions = torch.empty_like(tokens)  # as long as the tokens, by construction
        module = make_fx(run, tracing_mode="symbolic", _allow_non_fake_inputs=True)(
            tokens, positions, rows, *atoms.values.values()
        )
    placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
    meanings: dict[Any, Expr] = {}
    for node, axis in zip(placeholders, ("T", "T", "L")):
        meanings[node.meta["val"].shape[0].node.expr] = symbol(axis)
    for node, name in zip(placeholders[len(INPUTS) :], names):
        meanings[node.meta["val"].node.expr] = atoms.meanings[name]
    if environment.replacements:
        raise CaptureError(f"the model fixes sizes while it runs: {environment.replacements}")
    return Trace(module, meanings, weights)


def _replaced(
    model: torch.nn.Module, state: Mapping[str, torch.Tensor], weights: dict[str, str], tracer: Any
) -> Callable[..., None]:
    """A hook that notes buffers which the model replaced in its first step: every later step finds them as they are.

    (The engine converts the rotary table to the type of the queries when it first meets them.)
    """

    def hook(*_: Any) -> None:
        for name in dict(model.named_buffers()):
            now = _tensor(model, name)
            if now is not state[f"model.{name}"]:
                weights[get_proxy_slot(now, tracer).proxy.node.name] = name

    return hook


def _input(fake: FakeTensorMode, length: int) -> torch.Tensor:
    dynamic: Any = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DYNAMIC])
    return fake.from_tensor(torch.empty(length, dtype=torch.long, device="meta"), symbolic_context=dynamic)


def _tensor(model: torch.nn.Module, name: str) -> torch.Tensor:
    owner, _, leaf = name.rpartition(".")
    return getattr(model.get_submodule(owner), leaf)
