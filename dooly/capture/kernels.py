"""Result shapes of the engine's compiled operations that declare none, so that they can be traced without data."""

# pyright: reportPrivateUsage=false
# PyTorch and vLLM have no public way to do this.
from __future__ import annotations

import importlib

import torch

__all__ = ["declare_shapes"]


def _greedy_argmax(logits: torch.Tensor) -> torch.Tensor:
    return logits.new_empty(logits.shape[:-1], dtype=torch.int64)


def declare_shapes() -> None:
    """Register the missing shape rules; needs the engine's operations loaded, idempotent."""
    importlib.import_module("vllm._custom_ops")
    packet = getattr(torch.ops._C, "greedy_argmax", None)
    if packet is not None and not torch._C._dispatch_has_kernel_for_dispatch_key("_C::greedy_argmax", "Meta"):
        torch.library.register_fake("_C::greedy_argmax", _greedy_argmax)
