"""Options of the engine that a user may give, with vLLM's names; what each means is said here, once."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dooly.engine.defaults import gpu_limits, stated_length
from dooly.engine.settings import EngineSettings
from dooly.hardware.machine import BLOCK_SIZE

__all__ = ["EngineOptions"]

_OWN = "the engine's own if not given"


def _flag(meaning: str, default: Any = None) -> Any:
    """A field that is an option of the same name, too; what it means is said once, here."""
    return field(default=default, metadata={"help": meaning})


@dataclass(frozen=True)
class EngineOptions:
    """Options of the engine that were asked for; None where nothing was, and the engine's own value is taken."""

    max_num_seqs: int | None = _flag(f"most requests in one step; {_OWN}")
    max_num_batched_tokens: int | None = _flag(f"most tokens in one step; {_OWN}")
    max_model_len: int | None = _flag("most tokens of one request, the model's own if not given; longer ones are cut")
    block_size: int | None = _flag(f"tokens in one KV cache block; {_OWN}")
    num_gpu_blocks_override: int | None = _flag(
        "KV cache blocks; if not given what fits into a GPU, and enough for all on a CPU"
    )
    gpu_memory_utilization: float | None = _flag(
        "share of the device's memory that is filled, which gives the KV cache blocks; 0.92 on a GPU"
    )
    memory_other: float = _flag("GiB of that share that neither weights nor KV cache take", 1.3)
    enable_prefix_caching: bool | None = _flag("reuse KV blocks of prompts that begin alike; on a GPU it does")
    async_scheduling: bool | None = _flag("schedule the next step while the current one runs; on a GPU it does")

    def settings(self, on_gpu: bool, device: str, memory_bytes: float, folder: Path | None = None) -> EngineSettings:
        """Settings of an engine: on a GPU those of `vllm serve`, on a CPU small ones.  Nothing sizes the KV cache here.

        Args:
            device: name of the GPU, which with its memory decides what the engine takes by itself.
            memory_bytes: of the GPU.
            folder: of the model's config.json, which states the longest context.

        Raises:
            SimulationError: they contradict each other.
        """
        own, block_size = EngineSettings(), self.block_size or BLOCK_SIZE["cuda" if on_gpu else "cpu"]
        sequences, tokens, length = self.max_num_seqs, self.max_num_batched_tokens, self.max_model_len
        if on_gpu:
            sequences, tokens = gpu_limits(device, memory_bytes, sequences, tokens)
            length = stated_length(folder) if length is None and folder is not None else length
        return EngineSettings(
            own.max_num_seqs if sequences is None else sequences,
            own.max_num_batched_tokens if tokens is None else tokens,
            own.max_model_len if length is None else length,
            block_size,
            self.num_gpu_blocks_override,
            prefix_caching=on_gpu if self.enable_prefix_caching is None else self.enable_prefix_caching,
            async_scheduling=on_gpu if self.async_scheduling is None else self.async_scheduling,
        )
