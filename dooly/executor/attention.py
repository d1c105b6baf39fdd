"""Attention, through the engine's own backend selection, KV cache, metadata builder and layer; cache update too."""

import itertools
import math
import random
import statistics
import time
from collections.abc import Sequence
from typing import Any

from dooly.database import Point
from dooly.executor.runner import Trial
from dooly.executor.session import Session, Unsupported
from dooly.executor.tensors import copies_for, dtype_of, need_memory, random_tensor
from dooly.ir import Operation
from dooly.ir.expr import Expr

__all__ = ["AttentionRunner"]


class AttentionRunner:
    """``attention(q[T, heads, head_size], k, v)`` over any batch: prefill, chunked prefill, decode, mixed, skewed.

    Every request has physical blocks of its own, in shuffled order, and calls rotate through several sets of blocks, as
    one layer after another does, so that cached keys and values are not found in the processor's cache.

    Raises:
        Unsupported: the backend that the engine selects is not the one that the operation names.
    """

    def __init__(self, operation: Operation, session: Session) -> None:
        import torch
        from vllm.config import set_current_vllm_config
        from vllm.model_executor.layers.attention import Attention

        self._session = session
        self._heads, self._kv_heads, self._head_size = (
            _integer(operation, name) for name in ("heads", "kv_heads", "head_size")
        )
        if operation.attr("causal") is False:
            raise Unsupported("attention that is not causal")
        if operation.attr("sinks") is True:
            raise Unsupported("attention with sinks")
        self._dtype = operation.operands[0].dtype
        self._config = session.config(self._dtype)
        self._name = session.layer_name()
        window, soft_cap = (operation.attr(name) for name in ("window", "soft_cap"))
        default_dtype = torch.get_default_dtype()
        torch.set_default_dtype(dtype_of(self._dtype))
        try:
            with set_current_vllm_config(self._config):
                self._layer: Any = Attention(
                    self._heads,
                    self._head_size,
                    self._head_size**-0.5,
                    num_kv_heads=self._kv_heads,
                    cache_config=self._config.cache_config,
                    logits_soft_cap=float(soft_cap) if isinstance(soft_cap, Expr | float) else None,
                    per_layer_sliding_window=int(window) if isinstance(window, Expr) else None,
                    prefix=self._name,
                )
        finally:
            torch.set_default_dtype(default_dtype)
        self._layer.process_weights_after_loading(dtype_of(self._dtype))
        backend = self._layer.get_attn_backend()
        wanted = operation.attr("backend")
        if isinstance(wanted, str) and wanted != backend.get_name():
            raise Unsupported(f"the engine selects {backend.get_name()} here, the operation names {wanted}")
        self._spec: Any = self._layer.get_kv_cache_spec(self._config)
        self._builder: Any = backend.get_builder_cls()(self._spec, [self._name], self._config, torch.device("cpu"))
        self._blocks = 0
        self.weight_bytes = 0
        self._build_us: list[float] = []

    def trial(self, point: Point) -> Trial:
        """One call over the batch of `point`: update the KV cache with the new tokens, then attend."""
        batch = point.batch
        per_set = sum(self._blocks_of(new + cached) for new, cached in batch)
        set_bytes = per_set * self._spec.page_size_bytes
        sets = copies_for(set_bytes, self._session.machine)
        need_memory(2 * sets * set_bytes, self._session.machine)
        self._allocate(sets * per_set + 1)
        self._build_us.clear()
        states = [self._metadata(batch, 1 + index * per_set) for index in range(sets)]
        build_us = statistics.median(self._build_us)

        tokens = sum(new for new, _ in batch)
        q, k, v = (
            random_tensor((tokens, heads * self._head_size), self._dtype, seed)
            for seed, heads in enumerate((self._heads, self._kv_heads, self._kv_heads))
        )
        turns = itertools.cycle([({self._name: metadata}, {self._name: slots}) for metadata, slots in states])
        forward, layer = self._session.forward, self._layer

        def call() -> Any:
            forward.attn_metadata, forward.slot_mapping = next(turns)
            return layer(q, k, v)

        return Trial(call, inputs=(q, k, v), aside=(("metadata_us", build_us),))

    @property
    def cache(self) -> Any:
        """The layer's KV cache as the engine views it."""
        return self._layer.kv_cache

    def _blocks_of(self, tokens: int) -> int:
        return math.ceil(tokens / self._spec.block_size)

    def _allocate(self, blocks: int) -> None:
        """Allocate and bind the KV cache as the engine's worker does; kept while large enough."""
        import torch
        from vllm.v1.attention.backends.utils import get_supported_kv_cache_layouts, resolve_kv_cache_layout
        from vllm.v1.core.kv_cache_utils import get_kv_cache_config_from_groups, get_kv_cache_groups
        from vllm.v1.worker.utils import allocate_kv_cache, bind_kv_cache

        if blocks <= self._blocks:
            return
        supported = [layout.name for layout in get_supported_kv_cache_layouts([self._layer.get_attn_backend()])]
        layout = resolve_kv_cache_layout(self._config, [supported], [self._spec])
        self._config.cache_config.num_gpu_blocks_override = blocks
        groups = get_kv_cache_groups(self._config, {self._name: self._spec})
        plan = get_kv_cache_config_from_groups(self._config, groups, blocks * self._spec.page_size_bytes)
        caches = allocate_kv_cache(plan, torch.device("cpu"), layout, [self._spec.block_size])
        for cache in caches.values():
            cache.copy_(random_tensor(tuple(cache.shape), self._dtype))
        bind_kv_cache(caches, self._session.layers, [])
        self._blocks = blocks
        self.weight_bytes = blocks * self._spec.page_size_bytes

    def block_table(self, batch: Sequence[tuple[int, int]], first_block: int) -> list[list[int]]:
        """Physical blocks of each request: all distinct, shuffled, from `first_block` on (block 0 is the engine's)."""
        counts = [self._blocks_of(new + cached) for new, cached in batch]
        free = list(range(first_block, first_block + sum(counts)))
        random.Random(first_block).shuffle(free)
        taken = iter(free)
        return [list(itertools.islice(taken, count)) for count in counts]

    def _metadata(self, batch: Sequence[tuple[int, int]], first_block: int) -> tuple[Any, Any]:
        """The backend's metadata and the slots of the new tokens (int64[tokens])."""
        import torch
        from vllm.v1.attention.backend import CommonAttentionMetadata

        size = self._spec.block_size
        table = self.block_table(batch, first_block)
        widest = max(map(len, table))
        starts = [0, *itertools.accumulate(new for new, _ in batch)]
        slots = [
            blocks[position // size] * size + position % size
            for (new, cached), blocks in zip(batch, table, strict=True)
            for position in range(cached, cached + new)
        ]
        slot_mapping = torch.tensor(slots, dtype=torch.int64)
        query_start = torch.tensor(starts, dtype=torch.int32)
        common = CommonAttentionMetadata(
            query_start_loc=query_start,
            query_start_loc_cpu=query_start,
            seq_lens=torch.tensor([new + cached for new, cached in batch], dtype=torch.int32),
            num_reqs=len(batch),
            num_actual_tokens=starts[-1],
            max_query_len=max(new for new, _ in batch),
            max_seq_len=max(new + cached for new, cached in batch),
            block_table_tensor=torch.tensor([row + [0] * (widest - len(row)) for row in table], dtype=torch.int32),
            slot_mapping=slot_mapping,
            causal=True,
        )
        return self._timed(common), slot_mapping

    def _timed(self, common: Any) -> Any:
        start = time.perf_counter_ns()
        metadata = self._builder.build(0, common)
        self._build_us.append((time.perf_counter_ns() - start) / 1e3)
        return metadata


def _integer(operation: Operation, name: str) -> int:
    value = operation.attr(name)
    if not isinstance(value, Expr):
        raise Unsupported(f"attention without the attribute {name}")
    return int(value)
