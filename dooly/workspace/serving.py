"""A model under an engine's settings, and the load that it serves."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

from dooly.engine.defaults import UTILIZATION
from dooly.engine.options import EngineOptions
from dooly.engine.settings import EngineSettings, model_folder
from dooly.errors import SimulationError, TraceError
from dooly.hardware.gpus import PLATFORMS
from dooly.hardware.machine import machine
from dooly.hardware.software import gpu_present
from dooly.predict import SavedModel
from dooly.simulate import (
    SHIPPED,
    Progress,
    Run,
    Trace,
    TraceOptions,
    check_compact,
    kv_blocks,
    read_trace,
    shipped_trace,
    simulate,
    simulate_fast,
)
from dooly.simulate.memory import kv_row_bytes
from dooly.workspace.limits import check_context, context_of
from dooly.workspace.lowering import model_path
from dooly.workspace.models import saved_model

__all__ = ["Served", "bounded", "clipped", "filled", "load_trace"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Served:
    """Step times of a model under an engine's settings.

    Attributes:
        folder: with the model's config.json.
    """

    folder: Path
    saved: SavedModel
    settings: EngineSettings

    @classmethod
    def of(cls, model: str, asked: EngineOptions, db: str, backend: str | None, tp: int, platform: str | None) -> Self:
        """The model on this machine, or on a stored GPU.

        Raises:
            DoolyError: there is no such model or GPU, or the settings contradict each other.
        """
        folder = model_folder(model_path(model))
        on_gpu, device, memory_bytes = platform is not None, "", 0
        if (spec := PLATFORMS.get((platform or "").partition("@")[0])) is not None:
            device, memory_bytes = spec.device_name, spec.memory_bytes
        elif gpu_present():
            here = machine()
            on_gpu, device, memory_bytes = True, here.device, here.memory_bytes
        settings = asked.settings(on_gpu, device, memory_bytes, folder)
        saved = saved_model(model, db, backend, settings.block_size, tp, platform)
        settings = filled(asked, bounded(asked, settings, saved), saved, on_gpu)
        return cls(folder, saved.under(settings.max_num_seqs, settings.max_num_batched_tokens), settings)

    def told(self) -> list[str]:
        """The settings, one line each: what a server of this kind says when it starts."""
        own = self.settings
        caching = "prefix caching" if own.prefix_caching else "no prefix caching"
        scheduling = "asynchronous scheduling" if own.async_scheduling else "synchronous scheduling"
        return [
            f"engine: {own.max_num_seqs:,d} requests and {own.max_num_batched_tokens:,d} tokens a step, "
            f"{own.max_model_len:,d} tokens a request, {own.blocks:,d} KV cache blocks of {own.block_size}, "
            f"{caching}, {scheduling}"
        ]

    def compact(self, asked: bool | None = None) -> bool:
        """Whether the compact scheduler runs, not the engine's own; says which does.

        Args:
            asked: None for the compact one where it covers the model under these settings.

        Raises:
            SimulationError: it is asked for, and does not cover them.
        """
        if asked is False:
            _log.info("scheduler: vLLM's own")
            return False
        try:
            check_compact(self.saved.operations, self.settings)
        except SimulationError as error:
            if asked:
                raise
            _log.info(f"scheduler: vLLM's own, since the compact one does not do here ({error})")
            return False
        _log.info("scheduler: compact" + ("" if asked else " (--no-fast for vLLM's own)"))
        return True

    def run(
        self,
        trace: Trace,
        *,
        fast: bool | None = None,
        keep_steps: bool = False,
        concurrency: int | None = None,
        progress: Progress | None = None,
    ) -> Run:
        """Serve a trace.

        Args:
            fast: with the compact scheduler or the engine's own; None for the compact one where it covers the model.
            keep_steps: whether the run lists its steps; the engine's scheduler always does.
            concurrency: most requests under way; None for any number.
            progress: called with (requests finished, requests) as requests finish.

        Raises:
            SimulationError: the compact scheduler does not cover the model under these settings.
        """
        steps = self.saved.steps
        if not self.compact(fast):
            return simulate(
                self.folder,
                trace,
                steps.step_time,
                self.settings,
                power=steps.power,
                concurrency=concurrency,
                progress=progress,
            )
        return simulate_fast(
            self.folder.name,
            trace,
            steps.step_time,
            self.settings,
            power=steps.power,
            concurrency=concurrency,
            progress=progress,
            keep_steps=keep_steps,
        )


def load_trace(
    source: str,
    requests: int | None,
    rate: float | None,
    arrivals: Literal["trace", "poisson", "fixed"] = "trace",
    seed: int = 2023,
    options: Sequence[str] | None = None,
) -> Trace:
    """The trace asked for; says how its file was read.

    Args:
        options: ``KEY=VALUE`` texts of `TraceOptions`.

    Raises:
        TraceError: the file cannot be read, or an option makes no sense.
    """
    if requests is not None and requests < 1:
        raise TraceError(f"--requests is {requests}; expected at least 1")
    if source in SHIPPED and not Path(source).exists():
        if options:
            raise TraceError(f"--trace-option {options[0]}: {source} is synthetic; trace options are of files")
        trace = shipped_trace(source, requests or 1000, seed=seed)
    else:
        trace = read_trace(source, TraceOptions.parse(options or ()))
        for note in trace.notes:
            _log.info(note)
        trace = trace if requests is None else trace.first(requests)
    if arrivals != "trace":
        if rate is None:
            raise TraceError(f"--arrivals {arrivals} needs --rate, the mean arrivals per second")
        trace = trace.fixed(rate) if arrivals == "fixed" else trace.poisson(rate, seed=seed)
    elif rate is not None:
        trace = trace.at_rate(rate)
    return trace


def clipped(trace: Trace, max_model_len: int) -> Trace:
    """The trace, shortened to what the engine takes; says what was shortened."""
    trace = trace.clip(max_model_len)
    if trace.clipped:
        _log.info(f"{trace.clipped} of {len(trace)} requests were shortened to {max_model_len} tokens")
    return trace


def bounded(asked: EngineOptions, settings: EngineSettings, model: SavedModel) -> EngineSettings:
    """The settings with requests no longer than the model's context, where their length was not asked for.

    Raises:
        SimulationError: longer ones were asked for.
    """
    if asked.max_model_len is None:
        return replace(settings, max_model_len=min(settings.max_model_len, context_of(model)))
    check_context(model, settings.max_model_len)
    return settings


def filled(asked: EngineOptions, settings: EngineSettings, model: SavedModel, on_gpu: bool) -> EngineSettings:
    """The settings with the KV cache blocks that fit into the memory beside the weights, where that decides.

    On a GPU it does unless their number was asked for, on a CPU if a share of the memory was.  Says how many, or
    why that cannot be told.

    Raises:
        SimulationError: not even one request fits, or nothing tells what a share of the memory holds.
    """
    if asked.num_gpu_blocks_override is not None or (asked.gpu_memory_utilization is None and not on_gpu):
        return settings
    if asked.gpu_memory_utilization is None:
        try:
            kv_row_bytes(model.operations)
        except SimulationError as error:
            _log.info(
                f"note: {error}: the KV cache is taken as large enough (--num-gpu-blocks-override says how large)"
            )
            return settings
    share = UTILIZATION if asked.gpu_memory_utilization is None else asked.gpu_memory_utilization
    blocks = kv_blocks(model, settings.block_size, utilization=share, other_bytes=asked.memory_other * 2**30)
    _log.info(f"{blocks:,d} KV cache blocks of {settings.block_size} tokens fit into the memory")
    # More than all requests can use only matter to a prefix cache.
    return replace(settings, num_blocks=blocks if settings.prefix_caching else min(blocks, settings.blocks))
