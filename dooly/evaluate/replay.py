"""Predictions for recorded engine steps: the model, backend and GPU of the recording, from stored measurements."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dooly.engine.settings import EngineSettings
from dooly.errors import PredictError, SimulationError
from dooly.evaluate.kernel_report import KernelReport
from dooly.evaluate.ledger import with_backends
from dooly.evaluate.recording import Recording
from dooly.evaluate.steps import StepRecording
from dooly.hardware.gpus import PLATFORMS, platform_of
from dooly.ir import Program
from dooly.predict import SavedModel
from dooly.workspace.lowering import lower
from dooly.workspace.models import machine_of, saved_from
from dooly.workspace.shipped import MEASURED, measured_models
from dooly.workspace.store import look_into

if TYPE_CHECKING:
    from dooly.evaluate import Validation
    from dooly.simulate import Run

__all__ = ["kernel_report", "recorded_model", "recorded_platform", "replayed"]

_log = logging.getLogger(__name__)


def recorded_platform(recording: StepRecording | Recording) -> str:
    """The platform of the GPU that a recording was made on.

    Raises:
        PredictError: not a GPU that is known.
    """
    device = dict(recording.facts).get("device", "")
    if (found := platform_of(device)) is not None:
        return found
    known = ", ".join(name for name, spec in PLATFORMS.items() if spec.is_cuda)
    raise PredictError(f"steps recorded on {device!r}; expected one of {known}")


def recorded_model(recording: StepRecording | Recording, location: str, source: str = "") -> SavedModel:
    """Step times of what was recorded.  Operations of the measured models ship; others are captured by the engine.

    Args:
        source: a publication whose points are taken in place of dooly's own.

    Raises:
        PredictError: a formula is missing, or the GPU is unknown.
    """
    platform = recorded_platform(recording)
    if (recording.model, recording.tp) in MEASURED:
        operations = measured_models().for_model(recording.model)
        program = Program((), with_backends(operations, (recording.backend,)))
    else:
        program = lower([recording.model], recording.tp, recording.backend, platform)
    with look_into(location) as database:
        named = f"{platform}@{source}" if source else platform
        here = machine_of(database, named, cores=None if source else dict(recording.facts).get("cores"))
        saved = saved_from(database, program, here, fit_missing=True)
    settings = recording.settings if isinstance(recording, StepRecording) else recording.runs[0].settings
    return saved.under(settings.max_num_seqs, settings.max_num_batched_tokens)


def kernel_report(name: str, recording: StepRecording, location: str) -> KernelReport:
    """Kernels of recorded steps with their operations; without predictions, which is said, where a formula is missing.

    Raises:
        PredictError: the GPU is unknown.
    """
    recorded_platform(recording)
    try:
        return KernelReport.of(name, recording, recorded_model(recording, location).steps)
    except PredictError as error:
        _log.info(f"{name}: no predictions: {error}")
        return KernelReport.of(name, recording, None)


def replayed(recording: Recording, location: str) -> "list[Validation]":
    """Predictions and a simulation beside what was recorded: one for each trace and way of scheduling.

    Raises:
        PredictError: a formula is missing, or the GPU is unknown.
    """
    saved = recorded_model(recording, location)
    if (slow := dict(recording.facts).get("slowed by")) is not None:
        _log.info(f"note: the GPU of this recording was slowed down by {slow}: its steps take longer than they should")
    groups: dict[tuple[str, bool], list[Run]] = {}
    for run in recording.runs:
        groups.setdefault((run.trace, run.settings.async_scheduling), []).append(run)
    compact = _compact(saved, recording.runs[0].settings)
    return [_replayed(saved, runs, compact) for runs in groups.values()]


def _compact(saved: SavedModel, settings: EngineSettings) -> bool:
    """Whether the compact scheduler can simulate it; where not, that is said."""
    from dooly.simulate import check_compact

    try:
        check_compact(saved.operations, settings)
    except SimulationError as error:
        _log.info(f"note: the engine's own scheduler is simulated: {error}")
        return False
    return True


def _replayed(saved: SavedModel, runs: "Sequence[Run]", compact: bool) -> "Validation":
    from dooly.evaluate import compare, costs_along
    from dooly.simulate import Trace, TraceRequest, simulate, simulate_fast
    from dooly.workspace.lowering import model_path

    settings = runs[0].settings
    steps = saved.under(settings.max_num_seqs, settings.max_num_batched_tokens).steps
    served = tuple(TraceRequest(r.arrival_s, r.prompt_tokens, r.output_tokens) for r in runs[0].requests)
    trace = Trace(runs[0].trace, served)
    if compact:
        simulated = simulate_fast(saved.name, trace, steps.step_time, settings, power=steps.power)
    else:
        simulated = simulate(model_path(saved.name), trace, steps.step_time, settings, power=steps.power)
    return compare(runs, [costs_along(steps, run) for run in runs], simulated)
