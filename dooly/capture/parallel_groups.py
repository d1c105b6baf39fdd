"""A parallel world inside one process: nothing is communicated, modules only believe that they have peers."""

# pyright: reportPrivateUsage=false
# PyTorch and vLLM have no public way to do this.
from __future__ import annotations

import os
import tempfile
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from dooly.capture.parallel import Parallel
from dooly.capture.stages import Stage

__all__ = ["group_kind", "layers_of", "world_of"]

_PARTITION = "VLLM_PP_LAYER_PARTITION"


@contextmanager
def layers_of(stage: Stage, depth: int) -> Generator[None]:
    """The engine gives a stage its first ``depth`` layers, and all layers before them to the stages before it."""
    if stage.of == 1:
        yield
        return
    layers = [0] * stage.of
    layers[0], layers[stage.rank] = stage.start, depth
    held = os.environ.get(_PARTITION)
    os.environ[_PARTITION] = ",".join(map(str, layers))
    try:
        yield
    finally:
        os.environ.pop(_PARTITION)
        if held is not None:
            os.environ[_PARTITION] = held


@contextmanager
def world_of(parallel: Parallel, stage: int = 0) -> Generator[list[Any]]:
    """Parallel groups of the engine for the first rank of a stage in the block; needs a current ``VllmConfig``.

    Yields the group coordinators of more than one rank.  Groups that an engine in this
    process holds already are put back afterwards.
    """
    from vllm.distributed import parallel_state

    with ExitStack() as stack:
        if parallel_state._WORLD is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            with _alone():
                parallel_state.init_distributed_environment(1, 0, f"file://{folder / 'store'}", 0, "gloo")
            stack.callback(parallel_state.destroy_distributed_environment)
        coordinator = parallel_state.GroupCoordinator
        held = {name: value for name, value in vars(parallel_state).items() if isinstance(value, coordinator)}
        held.pop("_WORLD")
        parallel_state.__dict__.update(dict.fromkeys(held))
        stack.callback(parallel_state.__dict__.update, held)
        with _alone():
            parallel_state.initialize_model_parallel(1, 1)
        stack.callback(parallel_state.destroy_model_parallel)
        groups: list[Any] = []
        for group in (parallel_state._TP, parallel_state._DP, parallel_state._EP):
            size, _ = (1, None) if group is None else parallel.group(group_kind(group))
            if group is not None and size > 1:
                group.world_size, group.ranks, group.use_custom_op_call = size, list(range(size)), True
                groups.append(group)
        pipeline: Any = parallel_state._PP
        pipeline.world_size, pipeline.ranks = parallel.pp, list(range(parallel.pp))
        pipeline.rank = pipeline.rank_in_group = stage
        yield groups


@contextmanager
def _alone() -> Generator[None]:
    """Groups of one rank each: the engine would wait for its data-parallel peers, which it reads from its settings."""
    from vllm.config import get_current_vllm_config

    settings = get_current_vllm_config().parallel_config
    before = settings.data_parallel_size
    settings.data_parallel_size = 1
    try:
        yield
    finally:
        settings.data_parallel_size = before


def group_kind(group: Any) -> str:
    """Which group a coordinator is of: ``tp``, ``dp``, ``ep``."""
    return str(group.unique_name).partition(":")[0]
