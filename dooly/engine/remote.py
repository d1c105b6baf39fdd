"""vLLM's engine core in a process of its own, as `vllm serve` has it: requests and tokens go through sockets.

Importing this module imports neither torch nor vLLM; `start_remote_engine` does.
"""

import queue
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dooly.engine.settings import EngineSettings, engine_config, greedy, one_line
from dooly.errors import SimulationError
from dooly.hardware.software import gpu_present

__all__ = ["RemoteEngine", "start_remote_engine"]

_PATIENCE_S = 1e-3


class RemoteEngine:
    """An engine whose steps nobody here sees.  Made by `start_remote_engine`.

    Attributes:
        config: its VllmConfig.
        device: ``cpu`` or ``cuda``.
        backend: attention backend that it was told to use.
        start_s: seconds that starting took, imports of vLLM not included.
        vocab_size: token ids go from 0 to this, exclusive.
        overlaps: whether the next step is composed while the present one runs.
    """

    def __init__(self, client: Any, config: Any, backend: str, start_s: float) -> None:
        self.config, self.backend, self.start_s = config, backend, start_s
        self.device: str = config.device_config.device_type
        self.vocab_size: int = config.model_config.get_vocab_size()
        self.overlaps: bool = config.scheduler_config.async_scheduling
        self._client = client
        self._unfinished: set[str] = set()

    def add(self, request_id: str, prompt: list[int], max_tokens: int) -> None:
        """Send a request: token ids in, exactly `max_tokens` greedy tokens out."""
        from vllm.v1.engine import EngineCoreRequest

        self._unfinished.add(request_id)
        self._client.add_request(
            EngineCoreRequest(
                request_id=request_id,
                prompt_token_ids=prompt,
                mm_features=None,
                sampling_params=greedy(max_tokens),
                pooling_params=None,
                arrival_time=time.time(),
                lora_request=None,
                cache_salt=None,
                data_parallel_rank=None,
            )
        )

    def busy(self) -> bool:
        """Whether a request is under way."""
        return bool(self._unfinished)

    def step(self) -> list[Any]:
        """EngineCoreOutput items of a step that has ended; none after waiting for a millisecond in vain.

        Raises:
            SimulationError: the process has died.
        """
        try:
            outputs = self._client.outputs_queue.get(timeout=_PATIENCE_S)
        except queue.Empty:
            return []
        if isinstance(outputs, Exception):
            raise SimulationError(f"the engine's process failed: {one_line(outputs)}") from outputs
        self._unfinished -= {item.request_id for item in outputs.outputs if item.finish_reason is not None}
        return outputs.outputs

    def close(self) -> None:
        """End the process, and the thread and the sockets that its answers came through."""
        self._client.shutdown()
        self._client.output_queue_thread.join()
        self._client.ctx.term()


@contextmanager
def start_remote_engine(
    model: str | Path, settings: EngineSettings, backend: str, tp: int = 1
) -> Generator[RemoteEngine]:
    """Run the real engine on this machine's GPUs, or its CPU where there are none, in a process beside this one.

    Weights are random, as with `start_engine`.  The process imports the program that asks, which must therefore not
    start anything when it is imported.

    Args:
        backend: attention backend by the engine's name.
        tp: tensor-parallel size: as many processes more, with a GPU each.

    Raises:
        SimulationError: no config.json, or the engine refuses the configuration or does not start.
    """
    config = engine_config(model, settings, enforce_eager=not gpu_present(), backend=backend, tp=tp)
    from vllm.v1.engine.core_client import SyncMPClient
    from vllm.v1.executor import Executor

    start = time.perf_counter()
    try:
        client = SyncMPClient(config, Executor.get_class(config), log_stats=False)
    except Exception as error:  # whatever broke in the other process
        raise SimulationError(f"{model}: the engine does not start: {one_line(error)}") from error
    engine = RemoteEngine(client, config, backend, time.perf_counter() - start)
    try:
        yield engine
    finally:
        engine.close()
