"""The engine's mixture-of-experts code with only its kernel opaque: router gate and shared experts are traced as usual.

The engine hides a whole mixture behind one operation of its own.  Here the code behind that operation runs, and two
operations stand for what its kernels do: ``dooly::route`` picks experts, ``dooly::experts`` computes them.
"""

# pyright: reportPrivateUsage=false
# PyTorch and vLLM have no public way to do this.
from __future__ import annotations

from typing import Any

import torch
from vllm.model_executor.layers.fused_moe.runner import moe_runner

__all__ = ["show_experts"]

_LIBRARY = torch.library.Library("dooly", "DEF")
_LIBRARY.define("route(Tensor router_logits, SymInt top_k, str layer_name) -> (Tensor, Tensor)")
_LIBRARY.define("experts(Tensor x, Tensor routing, Tensor? ids, str layer_name) -> Tensor")


def _route(router_logits: torch.Tensor, top_k: int, _: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights f32[T, K] and ids i32[T, K] of the experts of each token."""
    shape = (router_logits.shape[0], top_k)
    return router_logits.new_empty(shape, dtype=torch.float32), router_logits.new_empty(shape, dtype=torch.int32)


def _experts(x: torch.Tensor, *_: Any) -> torch.Tensor:
    """The experts' weighted sum [T, H]; ``routing`` holds their weights, or router logits where ids are absent."""
    return torch.empty_like(x)


torch.library.register_fake("dooly::route", _route, lib=_LIBRARY)
torch.library.register_fake("dooly::experts", _experts, lib=_LIBRARY)


def show_experts(runner: Any) -> None:
    """Make a ``MoERunner`` run its own code instead of the opaque operation around it, for the rest of its life."""
    operations: Any = torch.ops.dooly
    name = runner.layer_name
    experts, router = runner.routed_experts, runner.router
    shared = runner.shared_experts is not None
    runner._forward_entry = moe_runner._moe_forward_shared if shared else moe_runner._moe_forward

    def select_experts(*, router_logits: torch.Tensor, **_: Any) -> Any:
        return operations.route(router_logits, experts.top_k, name)

    def forward_modular(x: torch.Tensor, topk_weights: torch.Tensor, topk_ids: torch.Tensor, **_: Any) -> Any:
        return operations.experts(x, topk_weights, topk_ids, name)

    def forward_monolithic(x: torch.Tensor, router_logits: torch.Tensor, **_: Any) -> Any:
        return operations.experts(x, router_logits, None, name)

    router.select_experts = select_experts
    experts.forward_modular, experts.forward_monolithic = forward_modular, forward_monolithic
    experts._ensure_moe_quant_config_init = _nothing


def _nothing() -> None:
    """Scales of quantized weights exist once weights are loaded; here there are none."""
