"""Recurrent mixers: which of their work is opaque, and what their modules say about it.

Mamba-2 and the gated delta rule have their projections outside the opaque operation.  A Mamba-1 mixer is opaque as a
whole; here its own code runs instead, with its two kernels (convolution and scan) as the opaque operations.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from vllm.forward_context import get_forward_context
from vllm.model_executor.layers.mamba import mamba_mixer

from dooly.capture.configint import size_of

__all__ = ["KINDS", "describe", "opened"]

KINDS: Mapping[str, str] = {
    "dooly.causal_conv1d": "mamba",
    "dooly.selective_scan": "mamba",
    "vllm.mamba_mixer2": "mamba2",
    "vllm.cpu_gdn_attention_core": "gated_delta_rule",
    "vllm.qwen_gdn_attention_core": "gated_delta_rule",
}
"""Opaque operations that keep a state for each request, by the kind of their owner."""

_library = torch.library.Library("dooly", "FRAGMENT")
_library.define("causal_conv1d(Tensor x, Tensor weight, Tensor? bias, str layer_name) -> Tensor")
_library.define(
    "selective_scan(Tensor x, Tensor delta, Tensor a, Tensor b, Tensor c, Tensor d, Tensor gate, Tensor? delta_bias, "
    "str layer_name) -> Tensor"
)


def _like_first(x: torch.Tensor, *_: Any) -> torch.Tensor:
    return torch.empty_like(x)


for _name in ("causal_conv1d", "selective_scan"):
    _library.impl(_name, _like_first, "Meta")


@contextmanager
def opened(model: torch.nn.Module) -> Generator[None]:
    """Mamba-1 mixers of ``model`` run their own code in the block, as for a step of prefills alone."""
    mixers = [module for module in model.modules() if isinstance(module, mamba_mixer.MambaMixer)]
    try:
        for mixer in mixers:
            mixer.forward = _Opened(mixer)
        yield
    finally:
        for mixer in mixers:
            del mixer.forward


class _Opened:
    """A mixer's ``forward`` with nothing but its kernels opaque."""

    def __init__(self, mixer: Any) -> None:
        self._mixer = mixer

    def __call__(self, hidden_states: torch.Tensor, output: torch.Tensor) -> None:
        name, result, context = self._mixer.prefix, _Result(), get_forward_context()

        def convolve(x: Any, weight: Any, bias: Any, *_: Any, **__: Any) -> torch.Tensor:
            return torch.ops.dooly.causal_conv1d(x, weight, bias, name)

        def scan(x: Any, _: Any, delta: Any, a: Any, b: Any, c: Any, d: Any, gate: Any, bias: Any, **__: Any) -> Any:
            return torch.ops.dooly.selective_scan(x, delta, a, b, c, d, gate, bias, name)

        replaced: list[tuple[Any, str, Any]] = [
            (mamba_mixer, "causal_conv1d_fn", convolve),
            (mamba_mixer, "selective_scan_fn", scan),
            (self._mixer, "kv_cache", (_NoState(), _NoState())),
            (context, "attn_metadata", {name: _prefills(hidden_states.shape[0])}),
        ]
        before = [getattr(owner, field) for owner, field, _ in replaced]
        try:
            for owner, field, value in replaced:
                setattr(owner, field, value)
            self._mixer.forward_impl(hidden_states, result)
        finally:
            for (owner, field, _), value in zip(replaced, before):
                setattr(owner, field, value)
        output.copy_(result.value)


class _Result:
    """Takes what the engine's code writes to all rows of its output."""

    value: Any = None

    def __setitem__(self, rows: slice, value: torch.Tensor) -> None:
        self.value = value


class _NoState:
    """In place of a state cache, which only the kernels read."""

    def transpose(self, *_: int) -> _NoState:
        return self


def _prefills(tokens: Any) -> Any:
    metadata: Any = importlib.import_module("vllm.v1.attention.backends.mamba1_attn").Mamba1AttentionMetadata
    fields = dict.fromkeys(metadata.__dataclass_fields__)
    return metadata(**{**fields, "num_prefill_tokens": tokens, "num_decode_tokens": 0})


def describe(kind: str, module: Any, path: str, dtypes: Mapping[torch.dtype, str]) -> dict[str, object]:
    """Attributes of what a mixer keeps opaque, sizes of one rank; ``weights`` are what it reads beside its operands."""
    sizes, weights = _DESCRIBE[kind](module)
    parameters = dict(module.named_parameters())
    conv_dtype, state_dtype = (dtypes[dtype] for dtype in module.get_state_dtype())
    return {
        **{name: size_of(size) for name, size in sizes.items()},
        "conv_kernel": size_of(module.conv_kernel_size),
        "conv_dtype": conv_dtype,
        "state_dtype": state_dtype,
        "weights": tuple(f"{path}.{name}" for name in weights if name in parameters),
    }


def _mamba(module: Any) -> tuple[dict[str, int], tuple[str, ...]]:
    return {"state_size": module.ssm_state_size}, ()


def _mamba2(module: Any) -> tuple[dict[str, int], tuple[str, ...]]:
    sizes = {
        "heads": module.num_heads // module.tp_size,
        "head_size": module.head_dim,
        "groups": module.n_groups // module.tp_size,
        "state_size": module.ssm_state_size,
        "chunk_size": module.model_config.get_mamba_chunk_size(),
    }
    return sizes, ("conv1d.weight", "conv1d.bias", "A", "D", "dt_bias")


def _delta_rule(module: Any) -> tuple[dict[str, int], tuple[str, ...]]:
    utilities: Any = importlib.import_module("vllm.third_party.flash_linear_attention.ops.utils")
    sizes = {
        "key_heads": module.num_k_heads // module.tp_size,
        "value_heads": module.num_v_heads // module.tp_size,
        "key_size": module.head_k_dim,
        "value_size": module.head_v_dim,
        "chunk_size": utilities.FLA_CHUNK_SIZE,
    }
    return sizes, ("conv1d.weight", "A_log", "dt_bias")


_DESCRIBE: Mapping[str, Callable[[Any], tuple[dict[str, int], tuple[str, ...]]]] = {
    "mamba": _mamba,
    "mamba2": _mamba2,
    "gated_delta_rule": _delta_rule,
}
