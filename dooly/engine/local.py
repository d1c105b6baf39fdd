"""vLLM's engine running in this process, on this machine's device.

Importing this module imports neither torch nor vLLM; `start_engine` does.
"""

import copy
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dooly.engine.settings import EngineSettings, engine_config, greedy, one_line
from dooly.engine.weights import register_loader
from dooly.errors import SimulationError
from dooly.hardware.software import gpu_present

__all__ = ["Engine", "start_engine"]


class Engine:
    """vLLM's EngineCore in this process, on this machine's device, with random weights.  Made by `start_engine`.

    Attributes:
        core: the vllm.v1.engine.core.EngineCore; its `scheduler` and `model_executor` may be wrapped to measure them.
        config: its VllmConfig.
        runner: the model runner.
        device: ``cpu`` or ``cuda``.
        start_s: seconds that starting took, imports of vLLM not included.
        vocab_size: token ids go from 0 to this, exclusive.
        max_model_len: most tokens of one request, prompt and output.
    """

    def __init__(self, core: Any, config: Any, start_s: float) -> None:
        self.core, self.config, self.start_s = core, config, start_s
        self.runner: Any = core.model_executor.driver_worker.worker.model_runner
        self.device: str = self.runner.device.type
        self.vocab_size: int = config.model_config.get_vocab_size()
        self.max_model_len: int = config.model_config.max_model_len

    @property
    def backend(self) -> str:
        """Attention backends of the model's layers."""
        layers: Any = self.config.compilation_config.static_forward_context.values()
        names = {layer.get_attn_backend().get_name() for layer in layers if hasattr(layer, "get_attn_backend")}
        return ",".join(sorted(names))

    @property
    def overlaps(self) -> bool:
        """Whether the next step is composed while the present one runs.

        An engine that was started with asynchronous scheduling can be told to finish each step first: its batches are
        then those of synchronous scheduling.

        Raises:
            SimulationError: set while requests are under way, or to True where the engine was started without.
        """
        return self.core.step_fn == self.core.step_with_batch_queue

    @overlaps.setter
    def overlaps(self, value: bool) -> None:
        if self.busy():
            raise SimulationError("the engine is busy; let it finish before its scheduling is changed")
        if value and self.core.batch_queue is None:
            raise SimulationError("the engine was started without asynchronous scheduling; set async_scheduling")
        self.core.step_fn = self.core.step_with_batch_queue if value else self.core.step

    def add(self, request_id: str, prompt: list[int], max_tokens: int) -> None:
        """Hand a request to the scheduler: token ids in, exactly `max_tokens` greedy tokens out.

        The end-of-sequence token is ignored.  The engine stops at max_model_len whatever `max_tokens` says.

        Raises:
            SimulationError: the prompt leaves no room for a token; the scheduler would never finish it.
        """
        if len(prompt) >= self.max_model_len:
            raise SimulationError(f"a prompt of {len(prompt)} tokens; the engine takes less than {self.max_model_len}")
        from vllm.v1.request import Request

        self.core.add_request(
            Request(
                request_id=request_id,
                prompt_token_ids=prompt,
                sampling_params=greedy(max_tokens),
                pooling_params=None,
                arrival_time=time.time(),
                block_hasher=self.core.request_block_hasher,
            )
        )

    def busy(self) -> bool:
        """Whether a step has anything to do (true once more after the last request, to flush)."""
        return self.core.scheduler.has_requests() or bool(self.core.batch_queue)

    def step(self) -> list[Any]:
        """One turn of the engine's loop: schedule, run the model, sample, update.  Returns the EngineCoreOutput items.

        Raises:
            SimulationError: a kernel does not support the model's sizes.
        """
        try:
            outputs, executed = self.core.step_fn()
        except RuntimeError as error:
            raise SimulationError(f"the engine failed while running a step: {one_line(error)}") from error
        self.core.post_step(executed)
        return [item for group in (outputs or {}).values() for item in group.outputs]

    def close(self) -> None:
        """Free the model, the KV cache and vLLM's process-wide state, so that another engine can start here."""
        self.core.shutdown()
        self.runner = None


_SETTINGS = {
    "block_size": ("cache_config", "block_size"),
    "prefix_caching": ("cache_config", "enable_prefix_caching"),
    "chunked_prefill": ("scheduler_config", "enable_chunked_prefill"),
}
"""Settings that the kernels of a platform may not be written for, by where the engine keeps them."""


def _needed(config: Any) -> dict[str, object]:
    """Settings that the engine itself would change on this machine, and to what: its kernels need that.

    `engine_config` has put back what was asked for.
    """
    from vllm.platforms import current_platform

    changed = copy.deepcopy(config)
    current_platform.check_and_update_config(changed)
    values = {
        name: [getattr(getattr(each, part), field) for each in (config, changed)]
        for name, (part, field) in _SETTINGS.items()
    }
    return {name: needed for name, (asked, needed) in values.items() if needed != asked}


@contextmanager
def start_engine(
    model: str | Path, settings: EngineSettings, *, enforce_eager: bool | None = None, backend: str | None = None
) -> Generator[Engine]:
    """Run the real engine on this machine's GPU, or its CPU where there is none, while the `with` block lasts.

    Nothing is downloaded: the weights are random, drawn from the shapes in config.json (`dooly.engine.weights`).  vLLM
    disables `torch.set_num_threads` for the rest of the process.

    Args:
        enforce_eager: neither compile the model nor capture CUDA graphs; by default so on a CPU only.
        backend: attention backend by the engine's name; its own choice by default.

    Raises:
        SimulationError: no config.json, the engine refuses the configuration, or the CPU engine cannot run it with
            these settings (MLA models, unless the processor has AMX: block size 16, no chunked prefill, no prefix
            caching).
    """
    eager = not gpu_present() if enforce_eager is None else enforce_eager
    config = engine_config(model, settings, enforce_eager=eager, backend=backend)
    config.load_config.load_format = register_loader()
    if config.model_config.use_mla and not gpu_present() and (needed := _needed(config)):
        words = ", ".join(f"{name} = {value}" for name, value in needed.items())
        raise SimulationError(f"{model}: the CPU engine runs MLA models only with {words}")
    from vllm.distributed import cleanup_dist_env_and_memory
    from vllm.v1.engine.core import EngineCore
    from vllm.v1.executor import Executor

    start = time.perf_counter()
    cleanup_dist_env_and_memory()  # a capture or a simulation in this process may have left its own groups
    try:
        core: Any = EngineCore(config, Executor.get_class(config), log_stats=False)
    except Exception as error:  # model code may fail in any way on a configuration it was not written for
        cleanup_dist_env_and_memory()
        raise SimulationError(f"{model}: the engine does not start: {one_line(error)}") from error
    engine = Engine(core, config, time.perf_counter() - start)
    try:
        yield engine
    finally:
        engine.close()
