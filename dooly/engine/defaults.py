"""Defaults of `vllm serve`, as read from its code, so that no engine is imported for them.

Read from vLLM 0.32.0 (`EngineArgs.get_batch_defaults` and `CacheConfig`; 0.26.0, whose steps were measured on GPUs,
starts the same); a test compares the table with the engine that is installed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from dooly.errors import SimulationError
from dooly.files import read_text

__all__ = ["OTHER_BYTES", "UTILIZATION", "Limits", "gpu_limits", "stated_length"]

UTILIZATION = 0.92
"""Share of a GPU's memory that the engine fills."""

OTHER_BYTES = 1.3 * 2**30
"""Bytes of that share which activations, captured graphs and libraries take.

1.15 to 1.43 GiB for vLLM 0.26.0 on H100 and H200 with four models at 2,048 tokens and 128 requests a step; more of
either need more.
"""

_GIB = 2**30


class Limits(NamedTuple):
    """Most requests and tokens of a step."""

    sequences: int
    batched_tokens: int


_BY_MEMORY = ((160 * _GIB, Limits(1024, 16384)), (70 * _GIB, Limits(1024, 8192)), (0, Limits(256, 2048)))
"""Least memory of a GPU, and the limits from there on."""


def gpu_limits(
    device: str, memory_bytes: float, sequences: int | None = None, batched_tokens: int | None = None
) -> Limits:
    """Limits of `vllm serve` on a GPU: those that are given, the engine's own for the rest.

    Args:
        device: name of the GPU, as its driver says it.
        memory_bytes: of the GPU.

    >>> gpu_limits("NVIDIA H200", 141 * 2**30)
    Limits(sequences=1024, batched_tokens=8192)
    """
    usual = next(limits for least, limits in _BY_MEMORY if memory_bytes >= least)
    if "a100" in device.lower():
        usual = _BY_MEMORY[-1][1]
    tokens = usual.batched_tokens if batched_tokens is None else batched_tokens
    return Limits(min(usual.sequences, tokens) if sequences is None else sequences, tokens)


_LENGTHS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length")


def stated_length(folder: Path) -> int:
    """Most tokens of a request, prompt and output, that the config.json in a folder states.

    Raises:
        SimulationError: it states none; says what to give.
    """
    try:
        content: dict[str, Any] = json.loads(read_text(folder / "config.json"))
        text: dict[str, Any] = content.get("text_config") or content
        stated = [int(text[name]) for name in _LENGTHS if text.get(name) is not None]
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise SimulationError(f"{folder / 'config.json'}: cannot be read ({error})") from error
    if not stated:
        raise SimulationError(f"{folder / 'config.json'}: states no longest context; give --max-model-len")
    return min(stated)
