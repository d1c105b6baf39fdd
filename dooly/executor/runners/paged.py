"""Attention over a paged KV cache: batches of any kind, each request with blocks of its own, caches in turn."""

import copy
import functools
import itertools
import math
import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from dooly.database import Point
from dooly.executor.runners.kv_cache import allocate
from dooly.executor.session import Session
from dooly.executor.tensors import copies_for, fill_random, need_memory
from dooly.executor.trial import Trial, Unsupported
from dooly.ir import Operation
from dooly.ir.expr import Expr

__all__ = ["PagedRunner", "integer"]

_PLANS = 5
"""Times that building the metadata of a batch is timed."""

_OTHER_BYTES = 16 * 2**20
"""Read before each: several times the cache of a core."""


class PagedRunner(ABC):
    """A layer of the engine over any batch: prefill, chunked prefill, decode, mixed, skewed.

    Every request has physical blocks of its own, in shuffled order.  Calls rotate through several KV caches under one
    metadata, as one layer after another does, so that what is cached is not found in the processor's cache; where
    caches are cold at each call anyway, one is enough.  They live as long as the trial.

    Attributes:
        layers: the engine's layers, in the order in which calls use them; all are built alike.
        names: by which the engine knows them.
        config: the VllmConfig that they were built under.
        spec, builder: the engine's KV cache specification and metadata builder of these layers.
    """

    layers: Sequence[Any]
    names: Sequence[str]
    config: Any
    spec: Any
    builder: Any

    def __init__(self, session: Session, dtype: str) -> None:
        self.session, self.dtype = session, dtype

    @abstractmethod
    def inputs(self, tokens: int) -> tuple[Any, ...]:
        """Inputs of the layer for so many new tokens."""

    @abstractmethod
    def call(self, layer: Any, inputs: tuple[Any, ...]) -> Any:
        """Update the cache of the layer with the new tokens, then attend."""

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights."""
        return sum(parameter.nbytes for layer in self.layers for parameter in layer.parameters())

    def new_builder(self, backend: Any) -> Any:
        """The metadata builder of an attention backend, as where a model has these layers alone: it looks at all."""
        import torch

        config = copy.copy(self.config)
        config.compilation_config = copy.copy(config.compilation_config)
        context = config.compilation_config.static_forward_context
        config.compilation_config.static_forward_context = {name: context[name] for name in self.names}
        return backend.get_builder_cls()(self.spec, self.names, config, torch.device(self.session.device))

    def trial(self, point: Point) -> Trial:
        """One call over the batch of `point`."""
        batch = point.batch
        blocks = 1 + sum(self._blocks_of(new + cached) for new, cached in batch)
        cache_bytes = blocks * self.spec.page_size_bytes
        copies = 1 if self.session.machine.fact("caches") == "cold" else copies_for(cache_bytes, self.session.machine)
        need_memory(copies * cache_bytes, self.session.machine)
        caches = itertools.cycle([self.new_cache(blocks) for _ in range(copies)])
        metadata, slots, build_us = self._metadata(batch)
        inputs = self.inputs(sum(new for new, _ in batch))
        layers = itertools.cycle(self.layers)
        state = dict.fromkeys(self.names, metadata), dict.fromkeys(self.names, slots)
        forward, attend = self.session.forward, self.call

        def call() -> Any:
            forward.attn_metadata, forward.slot_mapping = state
            layer = next(layers)
            _lend(layer, next(caches))
            try:
                return attend(layer, inputs)
            finally:
                _lend(layer, None)

        turns = max(copies, len(self.layers))
        return Trial(call, inputs=inputs, aside=(("metadata_us", build_us),), turns=turns, fresh=inputs)

    def new_cache(self, blocks: int) -> Any:
        """A KV cache of so many blocks, full of random values."""
        layer = self.layers[0]
        cache = allocate(layer, self.names[0], self.spec, self.config, blocks, self.session.device)
        fill_random(cache)
        _lend(layer, None)
        return cache

    def _blocks_of(self, tokens: int) -> int:
        return math.ceil(tokens / self.spec.block_size)

    def block_table(self, batch: Sequence[tuple[int, int]]) -> list[list[int]]:
        """Physical blocks of each request: all distinct and shuffled; block 0 is the engine's own."""
        counts = [self._blocks_of(new + cached) for new, cached in batch]
        free = iter((1 + np.random.default_rng(0).permutation(sum(counts))).tolist())
        return [list(itertools.islice(free, count)) for count in counts]

    def _metadata(self, batch: Sequence[tuple[int, int]]) -> tuple[Any, Any, float]:
        """The backend's metadata, the slots of the new tokens (int64[tokens]), median us of building the metadata."""
        import torch
        from vllm.v1.attention.backend import CommonAttentionMetadata

        size, device = self.spec.block_size, self.session.device
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
        metadata = self.builder.build(0, common)  # the first takes longer
        taken_us: list[float] = []
        for _ in range(_PLANS):
            _elsewhere().sum()
            begun = time.perf_counter_ns()
            metadata = self.builder.build(0, common)
            taken_us.append((time.perf_counter_ns() - begun) / 1e3)
        return metadata, slot_mapping, statistics.median(taken_us)


@functools.cache
def _elsewhere() -> Any:
    """Memory that the host reads before it plans: between two plans of an engine it has done all else of a step."""
    return np.ones(_OTHER_BYTES // 8, dtype=np.int64)


def _lend(layer: Any, cache: Any) -> None:
    """Let the layer use a cache, or none: one that is kept between points must not keep a cache alive."""
    object.__setattr__(layer, "kv_cache", cache)  # what a module does to set an attribute takes a microsecond


def integer(operation: Operation, name: str) -> int:
    """An attribute that is a number.

    Raises:
        Unsupported: the operation lacks it.
    """
    value = operation.attr(name)
    if not isinstance(value, Expr):
        raise Unsupported(f"{operation.target} without the attribute {name}")
    return int(value)
