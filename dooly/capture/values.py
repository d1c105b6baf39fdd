"""Small tensors that code computes while a model is built on the meta device, and then reads."""

# pyright: reportPrivateUsage=false
# PyTorch has no public way to do this.
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

__all__ = ["SmallValues"]

_MADE = frozenset((torch.tensor, torch.as_tensor, torch.arange, torch.linspace, torch.full, torch.zeros, torch.ones))
_READ = frozenset(
    getattr(torch.Tensor, name)
    for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__", "__array__")
)
_LIMIT = 1 << 14
"""Elements that are worth computing."""


class SmallValues(TorchFunctionMode):
    """Computes small tensors beside their meta tensors, as long as they come of numbers alone, for those who read them.

    Weights come of no numbers, so reading those still fails.
    """

    def __init__(self) -> None:
        super().__init__()
        self._values: dict[tuple[Any, ...], tuple[torch.Tensor, torch.Tensor]] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if func in _READ and (known := self._of(args[0])) is not None:
            return func(known, *args[1:], **given)
        result = func(*args, **given)
        if isinstance(result, torch.Tensor) and result.is_meta and result.numel() <= _LIMIT:
            self._note(func, result, args, given)
        return result

    def _note(self, func: Callable[..., Any], result: torch.Tensor, args: Sequence[Any], given: dict[str, Any]) -> None:
        name = getattr(func, "__name__", "")
        tensors = [each for each in (*args, *given.values()) if isinstance(each, torch.Tensor)]
        values = [self._of(each) for each in tensors]
        if (not tensors and func not in _MADE) or any(value is None for value in values):
            return
        if name == "__setitem__" or (name.endswith("_") and not name.endswith("__")):
            return
        known = dict(zip(map(id, tensors), values))
        here = {"device": torch.device("cpu")} if not tensors or "device" in given else {}
        try:
            value = func(
                *(known.get(id(each), each) for each in args),
                **{key: known.get(id(each), each) for key, each in given.items()} | here,
            )
        except (RuntimeError, TypeError, NotImplementedError):
            return  # nobody may ever ask
        self._values[_key(result)] = (result, value)

    def _of(self, tensor: Any) -> torch.Tensor | None:
        if not isinstance(tensor, torch.Tensor) or not tensor.is_meta:
            return tensor if isinstance(tensor, torch.Tensor) else None
        found = self._values.get(_key(tensor))
        return None if found is None else found[1]


def _key(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tensor.untyped_storage()._cdata, tuple(tensor.shape), tensor.stride(), tensor.storage_offset(), tensor.dtype
