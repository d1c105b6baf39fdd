"""Notes every operation that a module runs, with the shapes of what it reads and gives.

Shares nothing with capture: no ``ConfigInt``, no symbolic sizes, no FX graph, no conversion.
"""

# pyright: reportPrivateUsage=false
# PyTorch has no public way to do this.
from __future__ import annotations

import sys
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.schema_check_mode import SchemaCheckMode
from torch.utils._python_dispatch import TorchDispatchMode

from dooly.capture.opaque_modules import DTYPES
from dooly.capture.trace_hooks import module_paths
from dooly.provenance.observed import Call, Tensor

__all__ = ["Watch", "parameters", "watched_whole"]


def parameters(module: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> tuple[Call, ...]:
    """Parameters and buffers of a module as calls; ``state`` has their tensors by name."""
    known = {name for name, _ in module.named_parameters()}
    return tuple(
        Call(name, "weight" if name in known else "buffer", (), (_tensor(tensor),), {}, 1)
        for name, tensor in state.items()
    )


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
                if argument.has_default_value() and arguments[argument.name] in (
                    _plain(argument.default_value),
                    _LIKE_DEFAULT.get((target, argument.name)),
                ):
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


class _WholeWatch(Watch, SchemaCheckMode):
    """Sees operations before PyTorch takes them apart, as ``torch.export`` does; this key takes known classes alone."""

    _dispatch_key = torch._C.DispatchKey.PreDispatch


@contextmanager
def watched_whole(step: torch.nn.Module) -> Generator[Watch]:
    """Note what ``step`` runs in the block, each operation as the module calls it."""
    with module_paths(step) as path, enable_python_dispatcher():
        watch = _WholeWatch(path)
        watch._dispatch_key = torch._C.DispatchKey.PreDispatch
        with watch:
            yield watch


_ALLOCATIONS = frozenset(("aten.empty", "aten.empty_like", "aten.new_empty", "aten.empty_strided"))
_LIKE_DEFAULT = {("aten.slice", "start"): 0}
"""Numbers that mean what the default, which is none, means too."""
_IGNORED = frozenset(("device", "layout", "pin_memory", "memory_format", "non_blocking", "cudnn_enable"))


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
