"""vLLM's own scheduler without the engine around it: the part that decides what each step computes.

The scheduler class, the KV cache manager and the requests are vLLM's, unmodified.  The KV cache groups come from the
model's own attention layers, built on the meta device (no weights), so that sliding windows and latent attention are
cached as the engine would cache them.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from dooly.batch import Batch, StepBatch
from dooly.engine.settings import EngineSettings, engine_config, greedy, model_folder, one_line
from dooly.errors import SimulationError
from dooly.simulate.scheduling import TokenEvent
from dooly.simulate.trace import TraceRequest

__all__ = ["EngineScheduler", "Scheduled"]


@dataclass(frozen=True, slots=True)
class Scheduled:
    """One scheduled step: its batch (None if nothing is to be computed) and what vLLM wants back with the results."""

    batch: StepBatch | None
    scheduler_output: Any
    runner_output: Any


class EngineScheduler:
    """The engine's scheduler for one model under given settings.

    Args:
        model: folder with config.json, or that file.
        settings: of the engine.

    Attributes:
        depth: how many batches may be under way at once (1 synchronous, 2 asynchronous).
        scheduler: the vLLM scheduler itself.

    Raises:
        SimulationError: no config.json, or the engine refuses the model or the settings.
    """

    def __init__(self, model: str | Path, settings: EngineSettings) -> None:
        config = engine_config(model, settings)
        try:
            kv_cache = _kv_cache_config(config)
        except Exception as error:  # model code may fail in any way on a configuration it was not written for
            raise SimulationError(f"{model_folder(model)}: no KV cache for it: {one_line(error)}") from error
        from vllm.v1.outputs import ModelRunnerOutput
        from vllm.v1.request import Request

        self._request_class, self._output_class = Request, ModelRunnerOutput
        self._config, self._kv_cache = config, kv_cache
        self.reset()

    def reset(self) -> None:
        """Start over with an empty queue and an empty cache."""
        from vllm.utils.hashing import get_hash_fn_by_name
        from vllm.v1.core.kv_cache_utils import (
            get_request_block_hasher,
            init_none_hash,
            resolve_kv_cache_block_sizes,
        )
        from vllm.v1.structured_output import StructuredOutputManager

        config = self._config
        block_size, hash_block_size = resolve_kv_cache_block_sizes(self._kv_cache, config)
        self.depth: int = config.max_concurrent_batches
        self.scheduler: Any = config.scheduler_config.get_scheduler_cls()(
            vllm_config=config,
            kv_cache_config=self._kv_cache,
            structured_output_manager=StructuredOutputManager(config),
            include_finished_set=False,
            log_stats=False,
            block_size=block_size,
            hash_block_size=hash_block_size,
        )
        self._hasher: Any = None
        if config.cache_config.enable_prefix_caching:
            hash_function = get_hash_fn_by_name(config.cache_config.prefix_caching_hash_algo)
            init_none_hash(hash_function)
            self._hasher = get_request_block_hasher(hash_block_size, hash_function)
        self._requests: dict[str, Any] = {}
        self._sampled: dict[str, list[int]] = {}
        self._updates = 0
        self._latest: dict[str, int] = {}
        self._own = count(-1, -1)

    def submit(self, name: str, request: TraceRequest) -> None:
        """Queue a request of a trace: equal token ids where prefix ids are equal, and ids of its own elsewhere."""
        shared = [prefix for prefix in request.prefix for _ in range(request.prefix_block)][: request.prompt_tokens]
        own = next(self._own)
        self.add(name, shared + [own] * (request.prompt_tokens - len(shared)), request.output_tokens, request.arrival_s)
        self._sampled[name] = [own]

    def add(self, request_id: str, prompt: list[int], max_tokens: int, arrival_s: float) -> None:
        """Queue a request: its token ids, and how many tokens it will produce (no model sees them; any numbers do)."""
        request = self._request_class(
            request_id=request_id,
            prompt_token_ids=prompt,
            sampling_params=greedy(max_tokens),
            pooling_params=None,
            arrival_time=arrival_s,
            block_hasher=self._hasher,
        )
        self._requests[request_id] = request
        self._sampled[request_id] = [0]
        self.scheduler.add_request(request)

    def busy(self) -> bool:
        """Whether there is something to schedule (true once more after the last request, to flush)."""
        return self.scheduler.has_requests()

    def schedule(self) -> Scheduled:
        """Compose the next step.

        A request gets a token if the step reaches the end of what it has; that must be asked now, because with
        asynchronous scheduling the next step is composed before this one's results are in.
        """
        output = self.scheduler.schedule()
        counts: dict[str, int] = output.num_scheduled_tokens
        requests = self.scheduler.requests
        ids = list(counts)
        runner_output = self._output_class(
            req_ids=ids,
            req_id_to_index=dict(zip(ids, count())),
            sampled_token_ids=[[] if requests[i].is_prefill_chunk else self._sampled[i] for i in ids],
        )
        if not counts:
            return Scheduled(None, output, runner_output)
        pairs = tuple((new, requests[i].num_computed_tokens - new) for i, new in counts.items())
        # The model runner computes logits for the last row of every request, unfinished prompts included.
        return Scheduled(Batch(pairs, len(pairs)), output, runner_output)

    def update(self, step: Scheduled) -> list[TokenEvent]:
        """Give a step's results to the scheduler; returns the first and last tokens that came out, and the first
        after each preemption."""
        groups = self.scheduler.update_from_output(step.scheduler_output, step.runner_output)
        events: list[TokenEvent] = []
        for group in groups.values():
            for item in group.outputs:
                first, finished = item.prefill_stats is not None, item.finish_reason is not None
                follows = self._latest.get(item.request_id) == self._updates - 1
                self._latest[item.request_id] = self._updates
                if not follows or finished:
                    tokens = self._requests[item.request_id].num_output_tokens
                    cached = item.prefill_stats.num_cached_tokens if first else 0
                    events.append(TokenEvent(item.request_id, tokens, finished, cached))
                if finished:
                    del self._requests[item.request_id], self._sampled[item.request_id], self._latest[item.request_id]
        self._updates += 1
        return events

    def preempted(self, step: Scheduled) -> list[str]:
        """The requests that lost their KV blocks when this step was composed."""
        return sorted(step.scheduler_output.preempted_req_ids or ())


def _kv_cache_config(config: Any) -> Any:
    """vLLM's KVCacheConfig, by the steps of EngineCore._initialize_kv_caches without a worker."""
    from vllm.distributed.kv_transfer.kv_connector.utils import get_current_attn_backends
    from vllm.v1.attention.backends.utils import get_supported_kv_cache_layouts, resolve_kv_cache_layout
    from vllm.v1.core.kv_cache_utils import generate_scheduler_kv_cache_config, get_kv_cache_configs
    from vllm.v1.core.single_type_kv_cache_manager import register_all_kvcache_specs

    register_all_kvcache_specs(config)
    with _model_parallel(config):
        specs = _layer_specs(config)
        backends = get_current_attn_backends(config)
    layouts = [layout.name for layout in get_supported_kv_cache_layouts(backends)]
    resolve_kv_cache_layout(config, [layouts], list(specs.values()))
    memory_bytes = 1 << 30  # any: num_gpu_blocks_override decides
    kv_cache = generate_scheduler_kv_cache_config(get_kv_cache_configs(config, [specs], [memory_bytes]))
    config.cache_config.num_gpu_blocks = kv_cache.num_blocks
    sizes = [group.kv_cache_spec.block_size for group in kv_cache.kv_cache_groups]
    if sizes:
        config.cache_config.block_size = min(sizes)
    return kv_cache


def _layer_specs(config: Any) -> dict[str, Any]:
    """Return what each attention-like layer of the model caches, by layer name."""
    import torch
    from vllm.config import get_layers_from_vllm_config, set_current_vllm_config
    from vllm.model_executor.layers import rotary_embedding
    from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase
    from vllm.model_executor.model_loader.utils import initialize_model
    from vllm.utils.torch_utils import set_default_torch_dtype

    # vLLM shares rotary modules among models of a process: none without data may be left for a real engine to find.
    shared: Any = rotary_embedding._ROPE_DICT  # pyright: ignore[reportPrivateUsage]
    held = dict(shared)
    shared.clear()
    try:
        with set_current_vllm_config(config), set_default_torch_dtype(config.model_config.dtype), torch.device("meta"):
            initialize_model(vllm_config=config)
    finally:
        shared.clear()
        shared.update(held)
    specs: dict[str, Any] = {}
    layers: Any = get_layers_from_vllm_config(config, AttentionLayerBase)  # pyright: ignore[reportArgumentType]
    for name, layer in layers.items():
        if getattr(layer, "kv_sharing_target_layer_name", None) is None:
            spec = layer.get_kv_cache_spec(config)
            if spec is not None:
                specs[name] = spec
    return specs


@contextmanager
def _model_parallel(config: Any) -> Generator[None]:
    """A world of one for building a model; whatever another part of this process left there is dropped."""
    from vllm import distributed
    from vllm.config import set_current_vllm_config
    from vllm.utils.network_utils import get_file_store_init_method

    _leave_groups()
    with set_current_vllm_config(config):
        distributed.init_distributed_environment(1, 0, get_file_store_init_method(), 0, "gloo")
        distributed.initialize_model_parallel(1, 1)
    try:
        yield
    finally:
        _leave_groups()


def _leave_groups() -> None:
    """Drop the process groups; memory stays as it is, since a GPU may only be stood in for."""
    from vllm import distributed

    distributed.destroy_model_parallel()
    distributed.destroy_distributed_environment()
