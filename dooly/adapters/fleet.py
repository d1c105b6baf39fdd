"""vllm-sr-sim 0.1.0.dev20260713123629: an object with its ``GpuProfile`` protocol, times in seconds."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

from dooly.batch import Batch
from dooly.errors import PredictError
from dooly.predict import SavedModel

__all__ = ["FleetProfile"]


@dataclass(frozen=True, eq=False)
class FleetProfile:
    """One engine of the fleet; hand it to ``PoolConfig``.

    Lengths are rounded up to whole KV blocks, so that answers can be remembered.

    Attributes:
        model: whose steps.
        total_kv_blks: KV blocks of the engine, as it prints them when it starts.
        blk_size: tokens of a KV block.
        chunk: most tokens of a step (``max_num_batched_tokens``).
        max_slots: most requests of a step (``max_num_seqs``).
        cost_per_hr: of the device, in any currency.
    """

    model: SavedModel
    total_kv_blks: int
    blk_size: int = 16
    chunk: int = 2048
    max_slots: int = 256
    cost_per_hr: float = 0.0
    _seconds: Callable[[int, int, int, int], float] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.model.check_whole("vllm-sr-sim")
        if min(self.total_kv_blks, self.blk_size, self.chunk, self.max_slots) < 1:
            raise PredictError(
                f"{self.total_kv_blks} KV blocks of {self.blk_size} tokens, chunks of {self.chunk}, "
                f"{self.max_slots} slots: expected at least 1 of each"
            )
        object.__setattr__(self, "_seconds", lru_cache(maxsize=65536)(self._step))

    @property
    def name(self) -> str:
        """Model and device."""
        return f"{self.model.name} on {self.model.device}"

    def _step(self, chunk: int, history: int, decodes: int, blocks: int) -> float:
        requests = [(1, max(blocks * self.blk_size - 1, 1))] * decodes
        if chunk:
            requests.append((chunk, history))
        return self.model.steps.step_time(Batch.of(*requests)).total_us * 1e-6

    def _blocks(self, tokens: float | None) -> int:
        default = self.total_kv_blks * self.blk_size / self.max_slots
        return max(1, math.ceil((default if tokens is None else tokens) / self.blk_size))

    def iter_latency(self, n_active: int, mean_seq_len: float | None = None) -> float:
        """Seconds of a step in which `n_active` requests decode."""
        return self._seconds(0, 0, max(n_active, 1), self._blocks(mean_seq_len))

    def prefill_iter_latency(
        self, chunk_tokens: int, kv_history_tokens: float, n_active: int, mean_seq_len: float | None = None
    ) -> float:
        """Seconds of a step with one chunk of a prompt while the other `n_active` - 1 requests decode."""
        history = math.ceil(kv_history_tokens / self.blk_size) * self.blk_size
        chunk = max(int(chunk_tokens), 1)
        return self._seconds(chunk, history, max(n_active - 1, 0), self._blocks(mean_seq_len))

    def n_slots(self, max_ctx: int) -> int:
        """Requests of `max_ctx` tokens whose KV cache fits."""
        return min(self.max_slots, self.total_kv_blks // math.ceil(max_ctx / self.blk_size))

    def service_time(self, l_in: int, l_out: int, max_ctx: int) -> float:
        """Seconds that one request takes while all slots are busy."""
        slots, mean = max(self.n_slots(max_ctx), 1), float(l_in + l_out)
        chunks = range(0, max(l_in, 1), self.chunk)
        prefill = sum(
            self.prefill_iter_latency(min(self.chunk, max(l_in, 1) - done), done, slots, mean) for done in chunks
        )
        return prefill + l_out * self.iter_latency(slots, mean)

    def throughput(self, max_ctx: int, mean_l_in: float, mean_l_out: float) -> float:
        """Requests per second with all slots busy."""
        return self.n_slots(max_ctx) / self.service_time(int(mean_l_in), int(mean_l_out), max_ctx)
