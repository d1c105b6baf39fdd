"""Latent attention (MLA), through the engine's own backends for prefill and decode, the up-projection included."""

import math
from typing import Any

from dooly.database import Point
from dooly.engine.settings import one_line
from dooly.executor.runners.paged import PagedRunner, integer
from dooly.executor.session import Session
from dooly.executor.tensors import copies_for, dtype_of, need_memory
from dooly.executor.trial import Trial, Unsupported, is_out_of_memory
from dooly.hardware.backends import backend_of
from dooly.hardware.machine import kv_block_size
from dooly.ir import Operation
from dooly.ir.types import ITEM_BYTES

__all__ = ["LatentRunner"]

_MODEL: dict[str, object] = {
    "architectures": ["DeepseekV2ForCausalLM"],
    "model_type": "deepseek_v2",
    "q_lora_rank": None,
}
"""Configuration of a model with latent attention, beside the sizes that the operation names."""

"""Backends that need the engine to run without chunked prefill."""


class LatentRunner(PagedRunner):
    """``mla_attention(q[T, heads, nope + rope], rows[T, latent], keys[T, 1, rope], up[heads*(nope + value), latent])``.

    Several layers take turns, so that each finds its up-projection out of the cache.

    Raises:
        Unsupported: the engine selects other backends than the operation names.
        MemoryError: the weights would not fit.
    """

    def __init__(self, operation: Operation, session: Session) -> None:
        dtype = operation.operands[0].dtype
        super().__init__(session, dtype)
        self._sizes = {name: integer(operation, name) for name in ("heads", "latent", "nope", "rope", "value")}
        heads, latent, nope, rope, value = self._sizes.values()
        self.backend, self._prefill = str(operation.attr("backend")), str(operation.attr("prefill_backend"))
        # Twice: beside the weight as loaded, the layer keeps what it multiplies with when it decodes.
        layer_bytes = 2 * heads * (nope + value) * latent * ITEM_BYTES[dtype]
        copies = copies_for(layer_bytes // 2, session.machine)
        need_memory((copies + 1) * layer_bytes, session.machine)
        self.config = session.config(
            dtype,
            backend=self.backend,
            block_size=kv_block_size(self.backend, session.machine),
            family=_MODEL,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            head_dim=nope + rope,
            hidden_size=heads * (nope + rope),
            kv_lora_rank=latent,
            qk_nope_head_dim=nope,
            qk_rope_head_dim=rope,
            v_head_dim=value,
        )
        self.names = [session.layer_name() for _ in range(copies)]
        try:
            with session.building(dtype, self.config):
                self.layers = [self._layer(name, seed) for seed, name in enumerate(self.names)]
                first = self.layers[0]
                self.spec = first.get_kv_cache_spec(self.config)
                self.builder = self.new_builder(first.attn_backend)
        except (NotImplementedError, ValueError, RuntimeError) as error:  # as backends say what they do not run
            if is_out_of_memory(error):
                raise
            raise Unsupported(f"the engine refuses {self.backend} here: {one_line(error)}") from error

    def _layer(self, name: str, seed: int) -> Any:
        from vllm.model_executor.layers.attention.mla_attention import MLAAttention
        from vllm.model_executor.layers.linear import ColumnParallelLinear

        heads, latent, nope, rope, value = self._sizes.values()
        up: Any = ColumnParallelLinear(latent, heads * (nope + value), bias=False, params_dtype=dtype_of(self.dtype))
        weight = self.session.random(tuple(up.weight.shape), self.dtype, seed)
        up.weight.data.copy_(weight.div_(math.sqrt(latent)))
        layer: Any = MLAAttention(
            num_heads=heads,
            scale=(nope + rope) ** -0.5,
            qk_nope_head_dim=nope,
            qk_rope_head_dim=rope,
            v_head_dim=value,
            q_lora_rank=None,
            kv_lora_rank=latent,
            kv_b_proj=up,
            cache_config=self.config.cache_config,
            prefix=name,
        )
        found = layer.attn_backend.get_name(), layer.prefill_backend.get_name()
        if found != (wanted := (self.backend, self._prefill)):
            raise Unsupported(f"the engine selects {' and '.join(found)} here, the operation names {wanted}")
        up.quant_method.process_weights_after_loading(up)
        layer.process_weights_after_loading(dtype_of(self.dtype))
        return layer

    def trial(self, point: Point) -> Trial:
        """One call over the batch of `point`.

        Raises:
            NotImplementedError: a chunk with history, and a backend that reads whole prompts only.
        """
        if backend_of(self.backend).whole_prompts and any(new > 1 and cached for new, cached in point.batch):
            raise NotImplementedError(f"the engine's {self.backend} reads no prompt in chunks")
        return super().trial(point)

    def inputs(self, tokens: int) -> tuple[Any, ...]:
        """Queries, latent rows and rotary keys of the new tokens."""
        heads, latent, nope, rope, _ = self._sizes.values()
        shapes = (tokens, heads, nope + rope), (tokens, latent), (tokens, 1, rope)
        return tuple(self.session.random(shape, self.dtype, seed) for seed, shape in enumerate(shapes))

    def call(self, layer: Any, inputs: tuple[Any, ...]) -> Any:
        """Update the cache of the layer with the new tokens, then attend."""
        return layer(*inputs, output_shape=(len(inputs[0]), self._sizes["heads"] * self._sizes["value"]))
