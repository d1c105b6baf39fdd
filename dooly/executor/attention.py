"""Attention, through the engine's own backend selection, KV cache, metadata builder and layer; cache update too."""

import itertools
import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from dooly.database import Point
from dooly.engine import one_line
from dooly.executor.kv_cache import allocate
from dooly.executor.runner import Trial
from dooly.executor.session import Session, Unsupported
from dooly.executor.tensors import copies_for, dtype_of, need_memory
from dooly.ir import Operation
from dooly.ir.expr import Expr

__all__ = ["AttentionRunner"]


class AttentionRunner:
    """``attention(q[T, heads, head_size], k, v)`` over any batch: prefill, chunked prefill, decode, mixed, skewed.

    Every request has physical blocks of its own, in shuffled order, and calls rotate through several KV caches
    under one metadata, as one layer after another does, so that keys and values are not found in the processor's cache.

    Attributes:
        caches: KV caches of the latest trial, in the order in which its calls use them.

    Raises:
        Unsupported: the backend that the engine selects is not the one that the operation names.
    """

    def __init__(self, operation: Operation, session: Session) -> None:
        import torch
        from vllm.model_executor.layers.attention import Attention

        self._session = session
        self._heads, self._kv_heads, self._head_size = (
            _integer(operation, name) for name in ("heads", "kv_heads", "head_size")
        )
        if operation.attr("causal") is False:
            raise Unsupported("attention that is not causal")
        if operation.attr("sinks") is True and session.device == "cpu":
            raise Unsupported("attention with sinks")
        self._dtype = operation.operands[0].dtype
        wanted = operation.attr("backend")
        self._config = session.config(
            self._dtype,
            backend=wanted if isinstance(wanted, str) and session.device == "cuda" else None,
            num_attention_heads=self._heads,
            num_key_value_heads=self._kv_heads,
            head_dim=self._head_size,
            hidden_size=self._heads * self._head_size,
        )
        self._name = session.layer_name()
        window, soft_cap = (operation.attr(name) for name in ("window", "soft_cap"))
        try:
            with session.building(self._dtype, self._config):
                sinks: dict[str, Any] = {}
                if operation.attr("sinks") is True:
                    sinks["sinks"] = session.random((self._heads,), self._dtype)
                self._layer: Any = Attention(
                    self._heads,
                    self._head_size,
                    self._head_size**-0.5,
                    num_kv_heads=self._kv_heads,
                    cache_config=self._config.cache_config,
                    logits_soft_cap=float(soft_cap) if isinstance(soft_cap, Expr | float) else None,
                    per_layer_sliding_window=int(window) if isinstance(window, Expr) else None,
                    prefix=self._name,
                    **sinks,
                )
                self._layer.process_weights_after_loading(dtype_of(self._dtype))
                backend = self._layer.get_attn_backend()
                if isinstance(wanted, str) and wanted != backend.get_name():
                    raise Unsupported(f"the engine selects {backend.get_name()} here, the operation names {wanted}")
                self._spec: Any = self._layer.get_kv_cache_spec(self._config)
                device = torch.device(session.device)
                self._builder: Any = backend.get_builder_cls()(self._spec, [self._name], self._config, device)
        except (NotImplementedError, ValueError) as error:  # as backends say what they do not run
            raise Unsupported(f"the engine refuses {wanted or 'attention'} here: {one_line(error)}") from error
        self.caches: list[Any] = []

    def trial(self, point: Point) -> Trial:
        """One call over the batch of `point`: update the KV cache with the new tokens, then attend."""
        batch = point.batch
        blocks = 1 + sum(self._blocks_of(new + cached) for new, cached in batch)
        cache_bytes = blocks * self._spec.page_size_bytes
        copies = copies_for(cache_bytes, self._session.machine)
        need_memory(2 * copies * cache_bytes, self._session.machine)
        self.caches.clear()
        self.caches += [self._cache(blocks) for _ in range(copies)]
        metadata, slots, build_us = self._metadata(batch)

        tokens = sum(new for new, _ in batch)
        q, k, v = (
            self._session.random((tokens, heads * self._head_size), self._dtype, seed)
            for seed, heads in enumerate((self._heads, self._kv_heads, self._kv_heads))
        )
        turns = itertools.cycle(self.caches)
        state = {self._name: metadata}, {self._name: slots}
        forward, layer = self._session.forward, self._layer

        def call() -> Any:
            forward.attn_metadata, forward.slot_mapping = state
            layer.kv_cache = next(turns)
            return layer(q, k, v)

        return Trial(call, inputs=(q, k, v), aside=(("metadata_us", build_us),), turns=copies)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the KV caches that are kept."""
        return sum(cache.nbytes for cache in self.caches)

    def _cache(self, blocks: int) -> Any:
        """The cache of one more layer, full of random values."""
        layer, session = self._layer, self._session
        cache = allocate(layer, self._name, self._spec, self._config, blocks, session.device)
        cache.copy_(session.random(tuple(cache.shape), self._dtype))
        return cache

    def _blocks_of(self, tokens: int) -> int:
        return math.ceil(tokens / self._spec.block_size)

    def block_table(self, batch: Sequence[tuple[int, int]]) -> list[list[int]]:
        """Physical blocks of each request: all distinct and shuffled; block 0 is the engine's own."""
        counts = [self._blocks_of(new + cached) for new, cached in batch]
        free = iter((1 + np.random.default_rng(0).permutation(sum(counts))).tolist())
        return [list(itertools.islice(free, count)) for count in counts]

    def _metadata(self, batch: Sequence[tuple[int, int]]) -> tuple[Any, Any, float]:
        """The backend's metadata, the slots of the new tokens (int64[tokens]), and how long building took, us."""
        import torch
        from vllm.v1.attention.backend import CommonAttentionMetadata

        size, device = self._spec.block_size, self._session.device
        rows = self.block_table(batch)
        table = np.zeros((len(rows), max(map(len, rows))), dtype=np.int32)
        for row, blocks in zip(table, rows, strict=True):
            row[: len(blocks)] = blocks
        new, cached = np.array(batch).T
        positions = [np.arange(start, start + count) for count, start in batch]
        slots = [row[at // size].astype(np.int64) * size + at % size for row, at in zip(table, positions, strict=True)]
        slot_mapping = torch.from_numpy(np.concatenate(slots)).to(device)
        starts = torch.from_numpy(np.concatenate([[0], np.cumsum(new)]).astype(np.int32))
        lengths = torch.from_numpy((new + cached).astype(np.int32))
        common = CommonAttentionMetadata(
            query_start_loc=starts.to(device),
            query_start_loc_cpu=starts,
            seq_lens=lengths.to(device),
            seq_lens_cpu_upper_bound=lengths,
            num_reqs=len(batch),
            num_actual_tokens=int(new.sum()),
            max_query_len=int(new.max()),
            max_seq_len=int((new + cached).max()),
            block_table_tensor=torch.from_numpy(table).to(device),
            slot_mapping=slot_mapping,
            causal=True,
        )
        self._builder.build(0, common)
        begun = time.perf_counter_ns()
        metadata = self._builder.build(0, common)
        return metadata, slot_mapping, (time.perf_counter_ns() - begun) / 1e3


def _integer(operation: Operation, name: str) -> int:
    value = operation.attr(name)
    if not isinstance(value, Expr):
        raise Unsupported(f"attention without the attribute {name}")
    return int(value)
