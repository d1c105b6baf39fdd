"""How good others' measurements are: beside dooly's own points of the same GPU, and beside recorded steps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dooly.database import PointSource
from dooly.errors import PredictError
from dooly.evaluate.compare import StepError, compare_steps, costs_along
from dooly.evaluate.recording import Recording
from dooly.evaluate.replay import recorded_model
from dooly.fit.target import subject_of
from dooly.hardware.environment import environment_for, stored_machine
from dooly.ir import Kind, Operation
from dooly.predict import SavedModel
from dooly.workspace.foreign import fit_foreign
from dooly.workspace.formulas import observed

__all__ = ["ErrorRow", "class_rows", "step_rows"]

Column = NDArray[np.float64]

_LEFT_OUT = ("send", "recv")
"""Operations whose time is the host's."""


@dataclass(frozen=True)
class ErrorRow:
    """Errors of predictions from others' measurements at points that dooly measured, for one class of operations.

    Attributes:
        operations, points: how many were compared.
        median, p90: of the absolute error, as fractions.
        bias: median of predicted over measured, less one.
    """

    kind: str
    operations: int
    points: int
    median: float
    p90: float
    bias: float


def class_rows(database: PointSource, operations: Sequence[Operation], platform: str, source: str) -> list[ErrorRow]:
    """Errors at all points that dooly measured on a GPU, by class of operation, where the source can predict them."""
    own, foreign = stored_machine(database, platform), stored_machine(database, f"{platform}@{source}")
    measured = {
        each: points
        for each in operations
        if each.target not in _LEFT_OUT and (points := observed(database, each.signature, environment_for(each, own)))
    }
    formulas = fit_foreign(database, list(measured), foreign, (), lambda _: None)
    errors: dict[str, list[Column]] = {}
    for operation, points in measured.items():
        if (formula := formulas.get(operation.signature)) is not None:
            predicted, _ = formula.predict(subject_of(operation).columns(points))
            error = predicted / np.array([each.latency_us for each in points]) - 1.0
            errors.setdefault(_class(operation), []).append(error)
    return [_row(kind, found) for kind, found in sorted(errors.items())]


def _class(operation: Operation) -> str:
    return operation.target if operation.kind in (Kind.COLLECTIVE, Kind.GEMM) else operation.kind.value


def _row(kind: str, errors: Sequence[Column]) -> ErrorRow:
    together = np.concatenate(errors)
    sizes = np.abs(together)
    median, p90 = float(np.median(sizes)), float(np.quantile(sizes, 0.9))
    return ErrorRow(kind, len(errors), len(together), median, p90, float(np.median(together)))


def step_rows(recording: Recording, location: str, source: str) -> Iterator[tuple[StepError, StepError]]:
    """Errors of recorded steps, by class of step and part: by dooly's own points, and by those of a source.

    Raises:
        PredictError: one of the two cannot predict the model.
    """
    own, foreign = (_errors(recording, recorded_model(recording, location, each)) for each in ("", source))
    return zip(own, foreign, strict=True)


def _errors(recording: Recording, saved: SavedModel) -> tuple[StepError, ...]:
    runs = [run for run in recording.runs if run.steps]
    if not runs:
        raise PredictError(f"{recording.model}: nothing in this recording lists its steps")
    return compare_steps(runs, [costs_along(saved.steps, run) for run in runs])
