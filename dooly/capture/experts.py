"""The engine's mixture-of-experts code with only its kernel opaque: router gate and shared experts are traced as usual.

The engine hides a whole mixture behind one operation of its own.  Here the code behind that operation runs, and two
operations stand for what its kernels do: ``dooly::route`` picks experts, ``dooly::experts`` computes them.
"""

# pyright: reportPrivateUsage=false
# PyTorch and vLLM have no public way to do this.
from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from vllm.distributed import parallel_state
from vllm.model_executor.layers.fused_moe.expert_map_manager import ExpertMapManager
from vllm.model_executor.layers.fused_moe.runner import moe_runner

__all__ = ["placed_without_data", "show_experts"]

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


@contextmanager
def placed_without_data() -> Generator[None]:
    """Let the engine build expert-parallel layers on the meta device: it prints which experts a rank holds."""
    manager: Any = ExpertMapManager
    described = manager.get_compressed_map_string
    manager.get_compressed_map_string = lambda _: ""
    try:
        yield
    finally:
        manager.get_compressed_map_string = described


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
        with_ids = _gathered(runner.moe_config, x, topk_weights, topk_ids)
        return _scattered(runner.moe_config, operations.experts(*with_ids, name))

    def forward_monolithic(x: torch.Tensor, router_logits: torch.Tensor, **_: Any) -> Any:
        with_logits = _gathered(runner.moe_config, x, router_logits)
        return _scattered(runner.moe_config, operations.experts(*with_logits, None, name))

    router.select_experts = select_experts
    experts.forward_modular, experts.forward_monolithic = forward_modular, forward_monolithic
    experts._ensure_moe_quant_config_init = _nothing
    experts.quant_method.moe_kernel = _Kernel(experts.quant_method.is_monolithic)


@dataclass(frozen=True)
class _Kernel:
    """The questions that the engine asks the kernel that it makes once weights are loaded.

    Dispatch and combine are the kernel's own, by all-gather and reduce-scatter: nothing overlaps, nothing is reduced.
    """

    is_monolithic: bool
    can_overlap_shared_experts: bool = False

    @property
    def prepare_finalize(self) -> _Kernel:
        """The part of the kernel that moves tokens."""
        return self

    def topk_indices_dtype(self) -> None:
        """Any type of indices will do."""

    def output_is_reduced(self) -> bool:
        """Whether the sum over ranks is done already."""
        return False


def _group(config: Any) -> Any:
    """The ranks that exchange tokens, as the engine's default of all-gather and reduce-scatter has it; None if none."""
    if config.is_sequence_parallel:
        return parallel_state.get_ep_group()
    return parallel_state.get_dp_group() if config.dp_size > 1 else None


def _gathered(config: Any, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Dispatch: the tokens of all ranks; each rank is taken to have as many."""
    group = _group(config)
    return tensors if group is None else tuple(group.all_gather(tensor, 0) for tensor in tensors)


def _scattered(config: Any, result: torch.Tensor) -> torch.Tensor:
    """Combine: sums over ranks, of this rank's tokens."""
    group = _group(config)
    return result if group is None else group.reduce_scatter(result, 0)


def _nothing() -> None:
    """Scales of quantized weights exist once weights are loaded; here there are none."""
