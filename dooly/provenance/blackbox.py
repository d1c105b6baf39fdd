"""What the engine's model does at given numbers: built without symbols, run once, every operation noted.

Shares nothing with capture but the engine's modules: no ``ConfigInt``, no symbolic sizes, no FX graph, no conversion.
"""

# pyright: reportPrivateUsage=false
# PyTorch and vLLM have no public way to do this.
from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any, cast

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from vllm.config import set_current_vllm_config
from vllm.forward_context import set_forward_context
from vllm.ir import enable_torch_wrap

from dooly.capture.build import build, explained
from dooly.capture.frontend import described, names_of
from dooly.capture.kernels import declare_shapes
from dooly.capture.mixers import opened
from dooly.capture.observe import module_paths
from dooly.capture.options import Options
from dooly.capture.owners import DTYPES
from dooly.capture.step import Step
from dooly.provenance.observed import Call, Observed, Tensor

__all__ = ["Watch", "observe"]


def observe(config: Mapping[str, Any], *, options: Options, place: str, tokens: int, rows: int) -> Observed:
    """Run one step of ``tokens`` tokens and ``rows`` rows of logits, all layers, on tensors without data.

    Raises:
        CaptureError: the engine refuses the configuration, or its code fails.
    """
    with build(config, options, place, plain=True) as built:
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
            stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
            state = {f"model.{name}": torch.empty(p.shape, dtype=p.dtype, device="meta") for name, p in named}
            ids, positions = (torch.empty(tokens, dtype=torch.long, device="meta") for _ in range(2))
            indices = torch.empty(rows, dtype=torch.long, device="meta")
            hook = step.register_forward_hook(lambda *_: _replace(built.model, state))
            torch.func.functional_call(step, dict(state), (ids, positions, indices))
            hook.remove()
            watch = stack.enter_context(Watch(stack.enter_context(module_paths(step))))
            torch.func.functional_call(step, state, (ids, positions, indices))
        parameters = {name for name, _ in built.model.named_parameters()}
        weights = [
            Call(name, "weight" if name in parameters else "buffer", (), (_tensor(state[f"model.{name}"]),), {}, 1)
            for name, _ in named
        ]
        layers = [(call.target, str(call.arguments.get("layer_name"))) for call in watch.calls]
        return Observed((*weights, *watch.calls), described(built, names, layers))


def _replace(model: torch.nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Buffers that the model replaced in its first step: every later step finds them as they are."""
    for name, tensor in model.named_buffers():
        state[f"model.{name}"] = tensor


class Watch(TorchDispatchMode):
    """Notes every operation that reaches PyTorch's dispatcher."""

    def __init__(self, path: list[str]) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self._path = path
        self._kept: list[torch.Tensor] = []  # memory in use keeps its address
        self._unwritten: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        returned = [item for item in _flat(result) if isinstance(item, torch.Tensor)]
        target = f"{func.namespace}.{func._schema.name.split('::')[1]}"
        given = _bound(func, args, kwargs or {})
        self._kept += returned
        if target in _ALLOCATIONS:
            self._unwritten.update(map(_storage, returned))
        elif target != "aten.detach":
            self._note(func, target, given, returned)
        return result

    def _note(self, func: Any, target: str, given: Mapping[str, Any], returned: list[torch.Tensor]) -> None:
        reads: list[torch.Tensor] = []
        written: list[tuple[torch.Tensor, Any]] = []
        arguments: dict[str, Any] = {}
        defaults: set[str] = set()
        looks = False
        for argument in func._schema.arguments:
            value = given.get(argument.name)
            tensors = [item for item in _flat(value) if isinstance(item, torch.Tensor)]
            if not tensors and _is_plain(argument, value, argument.name in given):
                arguments[argument.name] = _plain(given.get(argument.name, argument.default_value))
                if argument.has_default_value() and arguments[argument.name] == _plain(argument.default_value):
                    defaults.add(argument.name)
            alias = argument.alias_info
            for tensor in tensors:
                unwritten = _storage(tensor) in self._unwritten
                if alias is not None and alias.is_write:
                    written.append((tensor, _names(alias)))
                elif alias is not None and unwritten:
                    looks = True
                if alias is None or not unwritten:
                    reads.append(tensor)
        if (looks and not written) or not (returned or written):
            return
        aliases = [_names(each.alias_info) for each in func._schema.returns]
        beside = [tensor for tensor, names in written if not any(names & other for other in aliases)]
        self._unwritten.difference_update(_storage(tensor) for tensor, _ in written)
        results = tuple(map(_tensor, (*returned, *beside)))
        self.calls.append(
            Call(
                self._path[-1],
                target,
                tuple(map(_tensor, reads)),
                results,
                arguments,
                len(returned),
                frozenset(defaults),
            )
        )


_ALLOCATIONS = frozenset(("aten.empty", "aten.empty_like", "aten.new_empty", "aten.empty_strided"))
_IGNORED = frozenset(("device", "layout", "pin_memory", "memory_format", "non_blocking"))


def _bound(func: Any, args: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {**{argument.name: value for argument, value in zip(func._schema.arguments, args)}, **kwargs}


def _is_plain(argument: Any, value: Any, given: bool) -> bool:
    if argument.name in _IGNORED or (value is None and "Tensor" in str(argument.type)):
        return False
    return given or argument.has_default_value()


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(map(_plain, cast("list[Any]", value)))
    if isinstance(value, torch.dtype):
        return DTYPES[value]
    if isinstance(value, int) and value == sys.maxsize:
        return None
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(getattr(value, "value", value))


def _names(alias: Any) -> frozenset[str]:
    return frozenset() if alias is None else frozenset(alias.before_set)


def _tensor(tensor: torch.Tensor) -> Tensor:
    shape = tuple(int(dim) for dim in tensor.shape)
    return Tensor(DTYPES[tensor.dtype], shape, tensor.untyped_storage().nbytes() // tensor.element_size())


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for item in cast("list[Any]", value):
            yield from _flat(item)
    else:
        yield value
