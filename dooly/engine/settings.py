"""vLLM's engine as a configuration: settings, the engine's own configuration object, what is read from the environment.

One way of configuring the engine for everything that measures or imitates it: the executor (host time), the recorded
runs (`dooly.engine.local` starts it) and the simulator (which takes the scheduler only).  Importing this module imports
neither torch nor vLLM; the functions do.
"""

from __future__ import annotations

import functools
import json
import logging
import math
import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dooly.errors import SimulationError
from dooly.files import read_text
from dooly.hardware.software import gpu_present

__all__ = [
    "EngineSettings",
    "engine_config",
    "greedy",
    "model_folder",
    "one_line",
    "prepare_vllm",
    "stated_dtype",
]


StatedDtype = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class EngineSettings:
    """Settings that decide how the engine batches requests.  The defaults suit a small model on a CPU.

    Attributes:
        max_num_seqs: most requests that run in one step.
        max_num_batched_tokens: token budget of one step.
        max_model_len: most tokens (prompt and output) of one request.
        block_size: tokens in one KV cache block.
        num_blocks: KV cache blocks (the engine keeps one of them back); None gives every running request room for
            `max_model_len` tokens, so that nothing is ever preempted.
        prefix_caching: whether finished blocks are reused by prompts that start alike.
        async_scheduling: whether the next step is scheduled while the current one runs.
        chunked_prefill: whether a prompt may be split over several steps; otherwise it waits for a step with room.
    """

    max_num_seqs: int = 16
    max_num_batched_tokens: int = 512
    max_model_len: int = 2048
    block_size: int = 32
    num_blocks: int | None = None
    prefix_caching: bool = False
    async_scheduling: bool = False
    chunked_prefill: bool = True

    def __post_init__(self) -> None:
        for name in ("max_num_seqs", "max_num_batched_tokens", "max_model_len", "block_size", "num_blocks"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SimulationError(f"engine setting {name} is {value}; expected at least 1")
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise SimulationError(
                f"engine setting max_num_batched_tokens is {self.max_num_batched_tokens}, less than max_num_seqs "
                f"{self.max_num_seqs}: a step must hold one token of every request; raise one or lower the other"
            )
        if not self.chunked_prefill and self.max_num_batched_tokens < self.max_model_len:
            raise SimulationError(
                f"engine setting max_num_batched_tokens is {self.max_num_batched_tokens}, less than max_model_len "
                f"{self.max_model_len}: without chunked prefill a step must hold a whole prompt"
            )
        if (self.blocks - 1) * self.block_size < self.max_model_len:
            raise SimulationError(
                f"{self.blocks} KV cache blocks of {self.block_size} tokens (one is kept back) cannot hold one request "
                f"of max_model_len {self.max_model_len}; raise num_blocks or lower max_model_len"
            )

    @property
    def blocks(self) -> int:
        """Number of KV cache blocks, computed from the lengths where `num_blocks` is None."""
        if self.num_blocks is not None:
            return self.num_blocks
        return self.max_num_seqs * math.ceil(self.max_model_len / self.block_size) + 1


def prepare_vllm() -> None:
    """Set what vLLM reads from the process environment, before its first import; idempotent.

    No hub access, no usage statistics, engine core in this process, a silent log.  The model registry
    inspects model classes in this process rather than in a subprocess that imports vLLM again (15 s against 2 s).
    On a GPU every model is run by the engine's second model runner, which is the default of newer releases for all
    models (of 0.26.0 for dense ones), and tokens are sampled by the engine's own kernels.
    """
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "CRITICAL")  # its errors come as exceptions
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    if not gpu_present():
        os.environ.setdefault("VLLM_TARGET_DEVICE", "cpu")
    else:
        os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "1")
        os.environ.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    try:
        from vllm.model_executor.models import registry
    except ImportError as error:
        raise SimulationError(
            f"vLLM cannot be imported ({one_line(error)}); install the extra that brings it: pip install 'dooly[cpu]'"
        ) from error

    def inspect_here(function: Any) -> Any:
        return function()

    registry._run_in_subprocess = inspect_here  # pyright: ignore[reportPrivateUsage]
    # The engine and PyTorch talk about themselves while a model is built; nobody here can act on it.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"vllm\.")
    logging.getLogger("torch._library.triton").setLevel(logging.ERROR)


def one_line(error: BaseException) -> str:
    """Shorten what an exception of the engine says to one line of bearable length.

    Pydantic and Hugging Face put a headline above the message and advice below it.
    """
    text = " ".join(str(error).split()) or type(error).__name__
    text = re.sub(r"^\d+ validation errors? for \w+ ", "", text)
    headline = r"^(Class validation error for validator '\w+'|Validation error for field '\w+'): \w+Error: "
    text = re.sub(headline, "", text)
    text = re.split(r" \[type=| Supported architectures: | To allow overriding | You can update ", text)[0]
    return text.removeprefix("Value error, ")[:300]


@functools.cache
def greedy(max_tokens: int) -> Any:
    """Sampling parameters of the engine for exactly so many tokens, each the likeliest."""
    from vllm.sampling_params import SamplingParams

    return SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True, detokenize=False)


def model_folder(model: str | Path) -> Path:
    """The folder that holds config.json.  `model` is that folder or the file itself.

    Raises:
        SimulationError: there is no such file.
    """
    path = Path(model)
    folder = path.parent if path.name == "config.json" else path
    if not (folder / "config.json").is_file():
        raise SimulationError(f"{path}: no config.json there; give a model folder or the path of its config.json")
    return folder


def stated_dtype(folder: Path) -> StatedDtype:
    """The data type that config.json states, or "auto".

    Passed to the engine by name: left to itself, the engine serves a model stated as float32 in bfloat16.
    """
    try:
        content = json.loads(read_text(folder / "config.json"))
        stated = content.get("dtype", content.get("torch_dtype"))
    except (OSError, ValueError, AttributeError) as error:
        raise SimulationError(f"{folder / 'config.json'}: not a JSON object: {one_line(error)}") from error
    return stated if stated in ("float32", "bfloat16", "float16") else "auto"  # anything else is the engine's to judge


_UNFUSED: dict[str, Any] = {"compilation_config": {"pass_config": {"fuse_allreduce_rms": False}}}
"""All-reduces apart from the norms behind them, as operations are measured; the engine may fuse them by itself."""


def engine_config(
    model: str | Path,
    settings: EngineSettings,
    *,
    enforce_eager: bool = True,
    backend: str | None = None,
    tp: int = 1,
) -> Any:
    """The engine's own configuration (vllm.config.VllmConfig) of a config.json under `settings`.

    The CPU platform overrides some of what was asked (asynchronous scheduling, block size, and for MLA models the
    token budget, chunked prefill and prefix caching).  All of it is put back: the scheduler then behaves as on the
    platform that the settings describe.

    Args:
        backend: attention backend by the engine's name; its own choice by default.
        tp: tensor-parallel size.  All-reduces are not fused with the norms behind them: a step is made of operations.

    Raises:
        SimulationError: no config.json, or the engine refuses the configuration.
    """
    folder = model_folder(model)
    dtype = stated_dtype(folder)
    named: Any = backend  # the engine takes a name where it declares its enumeration
    prepare_vllm()
    from vllm.engine.arg_utils import EngineArgs

    try:
        config = EngineArgs(
            model=str(folder),
            load_format="dummy",
            skip_tokenizer_init=True,
            trust_remote_code=False,
            dtype=dtype,
            enforce_eager=enforce_eager,
            attention_backend=named,
            tensor_parallel_size=tp,
            **_UNFUSED if tp > 1 else {},
            max_model_len=settings.max_model_len,
            max_num_batched_tokens=settings.max_num_batched_tokens,
            max_num_seqs=settings.max_num_seqs,
            block_size=settings.block_size,
            enable_chunked_prefill=settings.chunked_prefill,
            enable_prefix_caching=settings.prefix_caching,
            async_scheduling=settings.async_scheduling,
            num_gpu_blocks_override=settings.blocks,
            kv_cache_memory_bytes=1 << 20,  # not used beside num_gpu_blocks_override, but keeps the memory check quiet
            disable_log_stats=True,
        ).create_engine_config()
    except Exception as error:  # its validators, and those of its libraries, raise exceptions of every kind
        raise SimulationError(f"{folder / 'config.json'}: the engine refuses it: {one_line(error)}") from error
    config.cache_config.block_size = settings.block_size
    config.cache_config.enable_prefix_caching = settings.prefix_caching
    config.cache_config.num_gpu_blocks = settings.blocks
    config.scheduler_config.max_num_batched_tokens = settings.max_num_batched_tokens
    config.scheduler_config.enable_chunked_prefill = settings.chunked_prefill
    config.scheduler_config.async_scheduling = settings.async_scheduling
    return config
