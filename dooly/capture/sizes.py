"""Symbolic sizes of the tensors that a model creates for its parameters."""

# pyright: reportPrivateUsage=false
# PyTorch and vLLM have no public way to do this.
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import sympy
import torch
from torch.overrides import TorchFunctionMode

from dooly.capture.configint import expression
from dooly.ir.expr import Expr

__all__ = ["SizeRecorder"]

_FACTORIES: frozenset[Callable[..., Any]] = frozenset((torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn))


class SizeRecorder(TorchFunctionMode):
    """Notes the sizes that factory functions are called with, by the storage that they return.

    A parameter shares the storage of the tensor that it wraps, so neither ``Parameter`` nor the engine's subclasses of
    it need to know.  Tensors noted are kept alive as long as the recorder, which keeps storages distinct.
    """

    def __init__(self) -> None:
        super().__init__()
        self._sizes: dict[int, tuple[torch.Tensor, tuple[Expr, ...]]] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        size: Any = (kwargs or {}).get("size")
        if func in _FACTORIES:
            size = args if size is None else size
            if len(size) == 1 and isinstance(size[0], Sequence):
                size = size[0]
        elif func is torch.full:
            size = args[0] if size is None else size
        else:
            return result
        self._sizes[_storage(result)] = (result, tuple(expression(dim) for dim in size))
        return result

    def sizes(self, tensor: torch.Tensor) -> tuple[Expr, ...] | None:
        """Shape of a parameter as it was asked for, or None if no factory made it or it was reshaped since.

        Axes of length one may have come and gone.
        """
        found = self._sizes.get(_storage(tensor))
        if found is None:
            return None
        made, sizes = found
        if made.shape == tensor.shape:
            return sizes
        wide = [size for size, dim in zip(sizes, made.shape) if dim != 1]
        if [dim for dim in made.shape if dim != 1] != [dim for dim in tensor.shape if dim != 1]:
            return None
        return tuple(sympy.Integer(1) if dim == 1 else wide.pop(0) for dim in tensor.shape)


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata
