"""Symbolic sizes of the tensors that a model creates for its parameters."""

# pyright: reportPrivateUsage=false
# PyTorch and vLLM have no public way to do this.
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import sympy
import torch
from torch.overrides import TorchFunctionMode

from dooly.capture.configint import ConfigInt, expression
from dooly.ir.expr import Expr

__all__ = ["SizeRecorder"]

_FACTORIES: frozenset[Callable[..., Any]] = frozenset((torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn))


_GET_SHAPE = cast(Any, torch.Tensor.shape).__get__
_ELEMENTWISE = frozenset(
    getattr(torch.Tensor, name)
    for name in ("__pow__", "__rpow__", "__truediv__", "__rtruediv__", "__mul__", "__rmul__", "to", "float", "clone")
) | frozenset((torch.Tensor.div, torch.Tensor.mul, torch.Tensor.pow, torch.pow, torch.div, torch.mul))
"""Functions that keep the shape of their operand, or of the operand that is no scalar."""


def _size(func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Sequence[int] | None:
    """Sizes that a factory function was called with; None for any other function."""
    size: Any = kwargs.get("size")
    if func in _FACTORIES:
        size = args if size is None else size
        return size[0] if len(size) == 1 and isinstance(size[0], Sequence) else size
    if func is torch.full:
        return args[0] if size is None else size
    if func is torch.arange and args and all(isinstance(each, int) for each in args):
        start, end, step = (0, args[0], 1) if len(args) == 1 else (*args, 1)[:3]
        return (_steps(end - start, step),) if step > 0 else None
    return None


def _steps(length: int, step: int) -> int:
    if length % step == 0 and isinstance(length, ConfigInt):
        length.facts.require(length.expr, expression(step))
    return length // step if length % step == 0 else -(-length // step)


class SizeRecorder(TorchFunctionMode):
    """Notes the sizes that factory functions are called with, by the storage that they return.

    A parameter shares the storage of the tensor that it wraps, so neither ``Parameter`` nor the engine's subclasses of
    it need to know.  Code that asks a tensor for its sizes gets them as they were given.  Tensors noted are kept alive
    as long as the recorder, which keeps storages distinct.
    """

    def __init__(self) -> None:
        super().__init__()
        self._sizes: dict[int, tuple[torch.Tensor, tuple[int, ...]]] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.Tensor.size or func == _GET_SHAPE:
            return self._asked(result, *args, **(kwargs or {}))
        size = _size(func, args, kwargs or {})
        if size is None and func in _ELEMENTWISE and isinstance(result, torch.Tensor):
            size = next((known for each in args if (known := self._known(each)) and result.shape == each.shape), None)
        if size is not None:
            self._sizes[_storage(result)] = (result, tuple(size))
        return result

    def _asked(self, result: Any, tensor: Any, dim: int | None = None) -> Any:
        known = self._known(tensor)
        if known is None or not any(isinstance(size, ConfigInt) for size in known):
            return result
        return torch.Size(known) if dim is None else known[dim]

    def _known(self, tensor: Any) -> tuple[int, ...] | None:
        """Sizes that were noted for a tensor, unless it is another view of what they were noted for."""
        if not isinstance(tensor, torch.Tensor):
            return None
        found = self._sizes.get(_storage(tensor))
        return found[1] if found is not None and tuple(map(int, found[1])) == tuple(tensor.shape) else None

    def sizes(self, tensor: torch.Tensor) -> tuple[Expr, ...] | None:
        """Shape of a parameter as it was asked for, or None if no factory made it or it was reshaped since.

        Axes of length one may have come and gone.
        """
        found = self._sizes.get(_storage(tensor))
        if found is None:
            return None
        made, given = found
        sizes = tuple(map(expression, given))
        if made.shape == tensor.shape:
            return sizes
        wide = [size for size, dim in zip(sizes, made.shape) if dim != 1]
        if [dim for dim in made.shape if dim != 1] != [dim for dim in tensor.shape if dim != 1]:
            return None
        return tuple(sympy.Integer(1) if dim == 1 else wide.pop(0) for dim in tensor.shape)


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata
