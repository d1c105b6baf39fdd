"""Attention, through the engine's own backend selection, KV cache, metadata builder and layer; cache update too."""

from typing import Any

from dooly.engine.settings import one_line
from dooly.executor.runners.paged import PagedRunner, integer
from dooly.executor.session import Session
from dooly.executor.tensors import dtype_of
from dooly.executor.trial import Unsupported
from dooly.ir import Operation
from dooly.ir.expr import Expr

__all__ = ["AttentionRunner"]


class AttentionRunner(PagedRunner):
    """``attention(q[T, heads, head_size], k, v)`` over any batch.

    Raises:
        Unsupported: the backend that the engine selects is not the one that the operation names.
    """

    def __init__(self, operation: Operation, session: Session) -> None:
        from vllm.model_executor.layers.attention import Attention

        dtype = operation.operands[0].dtype
        super().__init__(session, dtype)
        self._heads, self._kv_heads, self._head_size = (
            integer(operation, name) for name in ("heads", "kv_heads", "head_size")
        )
        if operation.attr("causal") is False:
            raise Unsupported("attention that is not causal")
        if operation.attr("sinks") is True and session.device == "cpu":
            raise Unsupported("attention with sinks")
        wanted = operation.attr("backend")
        self.config = session.config(
            dtype,
            backend=wanted if isinstance(wanted, str) and session.device == "cuda" else None,
            num_attention_heads=self._heads,
            num_key_value_heads=self._kv_heads,
            head_dim=self._head_size,
            hidden_size=self._heads * self._head_size,
        )
        name = session.layer_name()
        window, soft_cap = (operation.attr(name) for name in ("window", "soft_cap"))
        try:
            with session.building(dtype, self.config):
                sinks: dict[str, Any] = {}
                if operation.attr("sinks") is True:
                    sinks["sinks"] = session.random((self._heads,), dtype)
                layer: Any = Attention(
                    self._heads,
                    self._head_size,
                    self._head_size**-0.5,
                    num_kv_heads=self._kv_heads,
                    cache_config=self.config.cache_config,
                    logits_soft_cap=float(soft_cap) if isinstance(soft_cap, Expr | float) else None,
                    per_layer_sliding_window=int(window) if isinstance(window, Expr) else None,
                    prefix=name,
                    **sinks,
                )
                layer.process_weights_after_loading(dtype_of(dtype))
                backend = layer.get_attn_backend()
                if isinstance(wanted, str) and wanted != backend.get_name():
                    raise Unsupported(f"the engine selects {backend.get_name()} here, the operation names {wanted}")
                self.layers, self.names = [layer], [name]
                self.spec = layer.get_kv_cache_spec(self.config)
                self.builder = self.new_builder(backend)
                if operation.attr("planned_per_layer") is True:
                    self.builder.aot_schedule = False  # as the engine does at layers with windows of several sizes
        except (NotImplementedError, ValueError) as error:  # as backends say what they do not run
            raise Unsupported(f"the engine refuses {wanted or 'attention'} here: {one_line(error)}") from error

    def inputs(self, tokens: int) -> tuple[Any, ...]:
        """Queries, keys and values of the new tokens."""
        return tuple(
            self.session.random((tokens, heads * self._head_size), self.dtype, seed)
            for seed, heads in enumerate((self._heads, self._kv_heads, self._kv_heads))
        )

    def call(self, layer: Any, inputs: tuple[Any, ...]) -> Any:
        """Update the cache of the layer with the new tokens, then attend."""
        return layer(*inputs)
