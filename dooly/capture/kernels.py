"""Result shapes of the engine's compiled operations that declare none, so that they can be traced without data."""

# pyright: reportPrivateUsage=false
# PyTorch and vLLM have no public way to do this.
from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import torch

__all__ = ["declare_shapes"]


def _greedy_argmax(logits: torch.Tensor) -> torch.Tensor:
    return logits.new_empty(logits.shape[:-1], dtype=torch.int64)


def declare_shapes() -> None:
    """Register the missing shape rules; needs the engine's operations loaded, idempotent.

    What returns nothing writes into tensors that it is given, and needs no rule but to be known without data.
    """
    importlib.import_module("vllm._custom_ops")
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    for name in torch._C._dispatch_get_all_op_names():
        if not name.startswith("_C::") or any(has_kernel(name, key) for key in _KNOWN):
            continue
        if name in _RULES:
            torch.library.register_fake(name, _RULES[name])
        elif not any(schema.returns for schema in torch._C._jit_get_schemas_for_operator(name)):
            _LIBRARY.impl(name.removeprefix("_C::"), _nothing, "Meta")


def _nothing(*_: Any, **__: Any) -> None:
    """Results are written in place."""


_KNOWN = ("Meta", "CompositeImplicitAutograd")
"""Keys of operations that have a rule, or are made of operations that have."""

_LIBRARY = torch.library.Library("_C", "FRAGMENT")
_RULES: Mapping[str, Callable[..., Any]] = {"_C::greedy_argmax": _greedy_argmax}
