"""Predictions for recorded engine steps: the model, backend and GPU of the recording, from stored measurements."""

from dooly.capture.platforms import PLATFORMS
from dooly.cli.kernel_tables import KernelReport
from dooly.cli.knowledge import lower, place_of, saved_from
from dooly.cli.output import say
from dooly.cli.shipped import MEASURED, measured_models
from dooly.cli.store import look_into
from dooly.errors import PredictError
from dooly.executor.ledger import with_backends
from dooly.ir import Program
from dooly.predict import SavedModel
from dooly.simulate.recording import Recording
from dooly.simulate.steps import StepRecording

__all__ = ["kernel_report", "recorded_model", "recorded_platform"]


def recorded_platform(recording: StepRecording | Recording) -> str:
    """The platform of the GPU that a recording was made on.

    Raises:
        PredictError: not a GPU that is known.
    """
    device = dict(recording.facts).get("device", "")
    for name, spec in PLATFORMS.items():
        if spec.is_cuda and name in device.lower():
            return name
    known = ", ".join(name for name, spec in PLATFORMS.items() if spec.is_cuda)
    raise PredictError(f"steps recorded on {device!r}; expected one of {known}")


def recorded_model(recording: StepRecording | Recording, location: str) -> SavedModel:
    """Step times of what was recorded.  Operations of the measured models ship; others are captured by the engine.

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
        saved = saved_from(database, program, place_of(database, platform), fit_missing=True)
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
        say(f"{name}: no predictions: {error}")
        return KernelReport.of(name, recording, None)
