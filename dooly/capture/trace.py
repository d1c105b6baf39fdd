"""One engine step as an FX graph whose inputs are tokens, positions, logit rows and the configuration itself."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch._dynamo import config as _dynamo_config
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import get_proxy_mode, make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.overrides import TorchFunctionMode
from vllm.config import set_current_vllm_config
from vllm.forward_context import set_forward_context
from vllm.v1.sample.logits_processor import LogitsProcessors
from vllm.v1.sample.metadata import SamplingMetadata
from vllm.v1.sample.sampler import Sampler

from dooly.capture.atoms import Atoms, compute
from dooly.capture.build import Built
from dooly.capture.configint import ConfigInt
from dooly.capture.kernels import declare_shapes
from dooly.capture.rebind import rebound
from dooly.errors import CaptureError
from dooly.ir.expr import Expr, symbol

__all__ = ["INPUTS", "Trace", "trace"]

INPUTS = ("input_ids", "positions", "logits_indices")
"""Tensor inputs of a step: T token ids, T positions, the L rows of the hidden states that need logits."""

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


class _Step(torch.nn.Module):
    """What the model runner does on the device each step: forward, rows that need logits, logits, greedy sampling."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model, self.sampler, self.metadata = model, Sampler(), _greedy()

    def forward(self, input_ids: torch.Tensor, positions: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        hidden = self.model(input_ids, positions)
        logits = self.model.compute_logits(hidden[rows])  # pyright: ignore[reportCallIssue]
        return self.sampler(logits, self.metadata).sampled_token_ids


def _greedy() -> SamplingMetadata:
    none = torch.empty(0, device="meta")
    return SamplingMetadata(
        temperature=None,
        all_greedy=True,
        all_random=False,
        top_p=None,
        top_k=None,
        generators={},
        max_num_logprobs=None,
        no_penalties=True,
        prompt_token_ids=None,
        frequency_penalties=none,
        presence_penalties=none,
        repetition_penalties=none,
        output_token_ids=[],
        allowed_token_ids_mask=None,
        bad_words_token_ids={},
        logitsprocs=LogitsProcessors(),
    )


def trace(built: Built) -> Trace:
    """Trace one step with the configuration as inputs; the model is left as it was.

    Raises:
        CaptureError: a size reached PyTorch as a plain number although the configuration decides it.
    """
    declare_shapes()
    atoms = Atoms(built.values, built.facts)
    step = _Step(built.model)
    names = list(atoms.values)
    weights: dict[str, str] = {}

    def run(*inputs: Any) -> torch.Tensor:
        bound = dict(zip(names, inputs[len(INPUTS) :]))
        tracer = cast(Any, get_proxy_mode()).tracer

        def size(value: ConfigInt | Expr) -> Any:
            return compute(atoms.rewrite(value.expr if isinstance(value, ConfigInt) else value), bound)

        with ExitStack() as stack:
            stack.enter_context(_annotated(tracer.graph, step))
            state = {}
            for name, shape in built.sizes.items():
                like = _tensor(built.model, name)
                state[f"model.{name}"] = torch.empty([size(dim) for dim in shape], dtype=like.dtype, device="meta")
                weights[next(reversed(tracer.graph.nodes)).name] = name
            stack.enter_context(rebound((built.model, built.vllm_config.model_config.hf_config, *built.groups), size))
            stack.enter_context(_ModelCode(tracer.graph))
            return torch.func.functional_call(step, state, inputs[: len(INPUTS)])

    environment = ShapeEnv(duck_shape=False, specialize_zero_one=False)
    fake = FakeTensorMode(shape_env=environment, allow_non_fake_inputs=True)
    tokens, rows = _input(fake, _HINTS["T"]), _input(fake, _HINTS["L"])
    with fake:
        positions = torch.empty_like(tokens)  # as long as the tokens, by construction
    with ExitStack() as stack:
        stack.enter_context(set_current_vllm_config(built.vllm_config))
        stack.enter_context(set_forward_context(None, built.vllm_config))
        stack.enter_context(torch.no_grad())
        stack.enter_context(_dynamo_config.patch(error_on_nested_fx_trace=False))  # compiled functions run as plain ones
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


def _input(fake: FakeTensorMode, length: int) -> torch.Tensor:
    dynamic: Any = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DYNAMIC])
    return fake.from_tensor(torch.empty(length, dtype=torch.long, device="meta"), symbolic_context=dynamic)


def _tensor(model: torch.nn.Module, name: str) -> torch.Tensor:
    owner, _, leaf = name.rpartition(".")
    return getattr(model.get_submodule(owner), leaf)


class _ModelCode(TorchFunctionMode):
    """While the model's own code runs.

    ``x.data`` is a detached view.  No size may have lost its symbol.  An operation whose schema takes a plain ``int``
    would fix a symbolic argument: it gets the number, and its node keeps the symbol under ``meta["sizes"]``.
    """

    def __init__(self, graph: torch.fx.Graph) -> None:
        super().__init__()
        self._graph = graph

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is _GET_DATA:
            return args[0].detach()
        for value in _flat((*args, *(kwargs or {}).values())):
            if isinstance(value, ConfigInt) and value.expr.free_symbols:
                raise CaptureError(f"{func.__name__} got the number {int(value)} for {value.expr}")
        if not isinstance(func, torch._ops.OpOverloadPacket | torch._ops.OpOverload):
            return func(*args, **(kwargs or {}))
        values, sizes = _numbers(_overload(func), args, kwargs or {})
        result = func(**values) if sizes else func(*args, **(kwargs or {}))
        if sizes:
            next(reversed(self._graph.nodes)).meta["sizes"] = sizes
        return result


def _overload(func: Any) -> torch._ops.OpOverload:
    return func if isinstance(func, torch._ops.OpOverload) else getattr(func, func.overloads()[0])


def _numbers(func: torch._ops.OpOverload, args: Any, kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments by name with symbolic values of plain ``int`` parameters as numbers, and those symbolic values."""
    schema = func._schema.arguments
    values = {**{argument.name: value for argument, value in zip(schema, args)}, **kwargs}
    plain = {argument.name for argument in schema if isinstance(argument.real_type, torch.IntType)}
    sizes = {name: value for name, value in values.items() if name in plain and isinstance(value, torch.SymInt)}
    return {**values, **{name: value.node.hint for name, value in sizes.items()}}, sizes


_GET_DATA = cast(Any, torch.Tensor.data).__get__


def _flat(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _flat(value)
        else:
            yield value


@contextmanager
def _annotated(graph: torch.fx.Graph, step: torch.nn.Module) -> Iterator[None]:
    """Give each node created in the block the module path and the source line that it comes from.

    A module that several layers share has several paths; the one below the module that calls it counts.
    """
    names: dict[int, list[str]] = {}
    for name, module in step.named_modules(remove_duplicate=False):
        names.setdefault(id(module), []).append(name.removeprefix("model").removeprefix("."))
    stack: list[str] = [""]
    create = graph.create_node

    def create_node(*args: Any, **kwargs: Any) -> torch.fx.Node:
        node = create(*args, **kwargs)
        node.meta["module_path"], node.meta["source"] = stack[-1], _source()
        return node

    def enter(module: torch.nn.Module, _: Any) -> None:
        known = names.get(id(module), stack[-1:])
        stack.append(next((name for name in known if name.startswith(f"{stack[-1]}.")), known[0]))

    def leave(module: torch.nn.Module, *_: Any) -> None:
        stack.pop()

    before = torch.nn.modules.module.register_module_forward_pre_hook(enter)
    after = torch.nn.modules.module.register_module_forward_hook(leave, always_call=True)
    graph.create_node = create_node
    try:
        yield
    finally:
        del graph.create_node
        before.remove()
        after.remove()


def _source() -> str:
    """``file:line`` of the innermost frame in the engine's model code, relative to the package."""
    frame = sys._getframe(2)
    while frame is not None:
        path = frame.f_code.co_filename
        at = path.rfind("/vllm/")
        if at >= 0:
            place = path[at + 1 :]
            if place.startswith(("vllm/model_executor/", "vllm/v1/")) and not place.endswith("custom_op.py"):
                return f"{place}:{frame.f_lineno}"
        frame = frame.f_back
    return ""
