"""``int`` as models call it, keeping where its argument came from.

Python turns whatever ``__int__`` returns into a plain number, so a model's ``int(head_size * fraction)`` would lose its
expression.  While a model is built and traced, its own modules see a class of that name that does not.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch

from dooly.capture.configint import ConfigFloat, ConfigInt

__all__ = ["whole_numbers_kept"]

_PACKAGES = ("vllm.model_executor.", "vllm.transformers_utils.configs", "transformers.")


class _Like(type):
    """Is to ``isinstance`` what ``int`` is."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, builtins.int)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, builtins.int)

    def __eq__(cls, other: object) -> bool:
        return other is builtins.int or other is cls

    def __hash__(cls) -> builtins.int:
        return hash(builtins.int)


class _Int(builtins.int, metaclass=_Like):
    def __new__(cls, value: Any = 0, *base: Any) -> Any:
        if isinstance(value, ConfigInt | torch.SymInt):
            return value
        if isinstance(value, ConfigFloat):
            return value.whole()
        if isinstance(value, torch.SymFloat):
            return torch.sym_int(value)
        return builtins.int(value, *base)


@contextmanager
def whole_numbers_kept() -> Generator[None]:
    """Models' modules that are imported take this class for ``int`` in the block."""
    changed: list[dict[str, Any]] = []
    for name, module in list(sys.modules.items()):
        fields = getattr(module, "__dict__", {})
        if name.startswith(_PACKAGES) and "int" not in fields:
            fields["int"] = _Int
            changed.append(fields)
    try:
        yield
    finally:
        for fields in changed:
            del fields["int"]
