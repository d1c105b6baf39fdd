"""Hooks that note, and put right, what happens while a model's own code is traced."""

# pyright: reportPrivateUsage=false
# PyTorch and vLLM have no public way to do this.
from __future__ import annotations

import re
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import torch
from torch.overrides import TorchFunctionMode

from dooly.capture.configint import ConfigInt

__all__ = ["ModelCode", "annotated", "last_node", "module_paths", "without_autocast"]


class ModelCode(TorchFunctionMode):
    """While the model's own code runs.

    ``x.data`` is a detached view.  A size that lost its symbol is noted.  An operation whose schema takes a plain
    ``int`` would fix a symbolic argument: it gets the number, and its node keeps the symbol under ``meta["sizes"]``.

    Args:
        lost: called with each integer that an operation gets as a number although the configuration decides it.
    """

    def __init__(self, graph: torch.fx.Graph, lost: Callable[[ConfigInt], None]) -> None:
        super().__init__()
        self._graph, self._lost = graph, lost

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is _GET_DATA:
            return args[0].detach()
        for value in _flat((*args, *(kwargs or {}).values())):
            if isinstance(value, ConfigInt) and value.expr.free_symbols:
                self._lost(value)
        if not isinstance(func, torch._ops.OpOverloadPacket | torch._ops.OpOverload):
            return func(*args, **(kwargs or {}))
        values, sizes = _numbers(_overload(func), args, kwargs or {})
        result = func(**values) if sizes else func(*args, **(kwargs or {}))
        if sizes:
            last_node(self._graph).meta["sizes"] = sizes
        return result


def last_node(graph: torch.fx.Graph) -> torch.fx.Node:
    """The node made last."""
    return next(iter(reversed(graph.nodes)))


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
def without_autocast() -> Generator[None]:
    """Nothing is cast by itself in the block; PyTorch has no answer for the meta device."""
    amp = cast(Any, torch.amp)
    asked, switch = torch.is_autocast_enabled, amp.autocast
    torch.is_autocast_enabled = lambda *_: False
    amp.autocast = lambda *_, **__: nullcontext()
    try:
        yield
    finally:
        torch.is_autocast_enabled, amp.autocast = asked, switch


@contextmanager
def module_paths(step: torch.nn.Module) -> Generator[list[str]]:
    """Stack of the paths of the modules of ``step`` that are running, innermost last; below them all, an empty path.

    A module that is registered twice has several paths; the first one in the layer that calls it counts.
    """
    names: dict[int, list[str]] = {}
    for name, module in step.named_modules(remove_duplicate=False):
        names.setdefault(id(module), []).append(name.removeprefix("model").removeprefix("."))
    stack: list[str] = [""]

    def enter(module: torch.nn.Module, _: Any) -> None:
        known, layer = names.get(id(module), stack[-1:]), _layer(stack[-1])
        stack.append(next((name for name in known if name.startswith(layer)), known[0]))

    def leave(*_: Any) -> None:
        stack.pop()

    before = torch.nn.modules.module.register_module_forward_pre_hook(enter)
    after = torch.nn.modules.module.register_module_forward_hook(leave, always_call=True)
    try:
        yield stack
    finally:
        before.remove()
        after.remove()


@contextmanager
def annotated(graph: torch.fx.Graph, step: torch.nn.Module) -> Generator[list[str]]:
    """Give each node created in the block the module path and the source line that it comes from.

    Yields the stack of those paths.
    """
    create = graph.create_node
    with module_paths(step) as stack:

        def create_node(*args: Any, **kwargs: Any) -> torch.fx.Node:
            node = create(*args, **kwargs)
            node.meta["module_path"], node.meta["source"] = stack[-1], _source()
            return node

        graph.create_node = create_node
        try:
            yield stack
        finally:
            del graph.create_node


def _layer(path: str) -> str:
    """The path up to its last number and the dot after it.

    >>> _layer("model.layers.3.mlp.experts")
    'model.layers.3.'
    """
    return re.match(r"(?:.*\.\d+\.)?", path)[0]  # pyright: ignore[reportOptionalSubscript] (matches anything)


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
