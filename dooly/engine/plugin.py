"""A plug-in of vLLM: loaded in every process of `vllm serve`, it logs the steps of the engine core when asked to.

The entry point is of the group ``vllm.general_plugins``.  Without the environment variable `STEPS_FOLDER` it does
nothing.  With it, the engine core writes one step log (`dooly.engine.step_log`) into that folder, and the load format
of `dooly.engine.weights` is known in every process.
"""

import functools
import math
import os
import time
import weakref
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from dooly.engine.probe import Probe, SeenStep
from dooly.engine.step_log import LoggedRequest, LoggedStep, StepLog
from dooly.engine.weights import register_loader
from dooly.errors import SimulationError

__all__ = ["STEPS_FOLDER", "load", "require_plugin"]

STEPS_FOLDER = "DOOLY_STEPS"
"""Environment variable that names the folder of the logs."""


def load() -> None:
    """Make the random weights known, and watch the engine core of this process as soon as it steps."""
    folder = os.environ.get(STEPS_FOLDER)
    if not folder:
        return
    register_loader()
    _watch_cores(Path(folder))


def require_plugin() -> None:
    """Make sure that vLLM will load this plug-in.

    Raises:
        SimulationError: dooly is only on the path, not installed.
    """
    here = f"{load.__module__}:{load.__name__}"
    if not any(each.value == here for each in entry_points(group="vllm.general_plugins")):
        raise SimulationError("vLLM does not find dooly's plug-in, which logs the steps; install dooly: pip install .")


@functools.cache
def _watch_cores(folder: Path) -> None:
    """Let each engine core of this process log its steps: it is first seen when it takes in a request."""
    from vllm.v1.engine import core

    process: Any = core.EngineCoreProc
    take_in = process.preprocess_add_request
    recorders: dict[int, _Recorder] = {}

    def watched(own: Any, request: Any) -> Any:
        if id(own) not in recorders:
            recorders[id(own)] = _Recorder(own, folder / f"steps-{os.getpid()}-{len(recorders)}.bin")
        taken = take_in(own, request)
        recorders[id(own)].arrived(request)
        return taken

    process.preprocess_add_request = watched


@dataclass(frozen=True)
class _Core:
    """The `Watched` of a core in this process."""

    core: Any
    runner: Any
    device: str


class _Recorder:
    """Numbers the requests of one engine core and logs its steps."""

    def __init__(self, core: Any, path: Path) -> None:
        worker = getattr(core.model_executor, "driver_worker", None)
        runner = None if worker is None else worker.worker.model_runner
        device = core.vllm_config.device_config.device_type
        file = open(path, "xb", buffering=0)  # noqa: SIM115  (open as long as the core lives)
        weakref.finalize(core, file.close)
        self._log = StepLog(file)
        self._arrivals: dict[str, tuple[int, float]] = {}
        self._numbers: dict[str, int] = {}
        self._before: SeenStep | None = None
        Probe(_Core(core, runner, device), self._ended).__enter__()

    def arrived(self, request: Any) -> None:
        """Note when the core's input thread had a request ready; its scheduler learns of it later."""
        self._arrivals[request.request_id] = len(request.prompt_token_ids or ()), time.perf_counter()

    def _ended(self, step: SeenStep) -> None:
        before, self._before = self._before, step
        device_us = step.device_us if step.issued_s else math.nan
        on_gpu = step.events is not None
        self._log.step(
            LoggedStep(
                step.start_s,
                step.scheduled_s,
                step.called_s or math.nan,
                step.issued_s or math.nan,
                step.ready_s,
                step.end_s,
                device_us,
                step.gap_us(before) if on_gpu and before is not None else math.nan,
                step.mode if on_gpu else "",
                step.padded if on_gpu else 0,
                tuple(map(self._number, step.ids)),
                step.requests,
                step.admitted,
                tuple(map(self._number, step.preempted)),
            )
        )
        if before is not None:
            before.events = None

    def _number(self, name: str) -> int:
        number = self._numbers.get(name)
        if number is None:
            number = self._numbers[name] = len(self._numbers)
            self._log.request(LoggedRequest(number, name, *self._arrivals.pop(name, (0, math.nan))))
        return number
