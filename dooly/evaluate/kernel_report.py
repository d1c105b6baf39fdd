"""Recorded engine steps beside predictions, as tables and as one document."""

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dooly.evaluate.kernels import RoleTime, account, recorded_cost
from dooly.evaluate.steps import EngineStep, StepRecording
from dooly.predict import StepModel
from dooly.report import Column, Table

__all__ = ["KernelReport", "kernel_classes"]

Row = Mapping[str, Any]

_STEPS = (
    Column("label", "step"),
    Column("kind", "class"),
    Column("mode", "graph mode"),
    Column("padded", "tokens", ",d"),
    Column("kernels_us", "kernels (us)", ",.0f"),
    Column("unattributed_percent", "unattributed (%)", ".2f"),
    Column("predicted_us", "predicted (us)", ",.0f"),
    Column("error_percent", "error (%)", "+.1f"),
    Column("gpu_us", "GPU, no profiler (us)", ",.0f"),
)
_ROLES = (
    Column("role", "kernels of"),
    Column("share_percent", "of GPU time (%)", ".1f"),
    Column("operations", "operations", ",d"),
    Column("launches", "launches", ",d"),
    Column("median_percent", "median error (%)", ".1f"),
    Column("bias_percent", "median bias (%)", "+.1f"),
    Column("worst_percent", "worst (%)", "+.1f"),
    Column("worst_step", "at"),
)
_SPREAD = (
    Column("median_percent", "median error (%)", ".1f"),
    Column("p90_percent", "90 % (%)", ".1f"),
    Column("bias_percent", "median bias (%)", "+.1f"),
    Column("worst_percent", "worst (%)", "+.1f"),
    Column("worst_step", "at"),
)
_SUMS = (Column("kind", "class"), Column("steps", "steps", ",d"), *_SPREAD)
_SPANS = (
    Column("kind", "class"),
    Column("shapes", "shapes", ",d"),
    Column("steps", "steps", ",d"),
    *_SPREAD,
    Column("noise_percent", "noise (%)", ".1f"),
)
_KINDS = ("decode", "prefill", "mixed")


@dataclass(frozen=True)
class KernelReport:
    """The findings of one recording.

    Attributes:
        title: the file, model, GPU, engine and backend in words.
        profiled: rows of profiled steps.
        by_role: kernels of each role over all profiled steps.
        by_class: GPU time without profiler, shape by shape, summed up for each class of steps.
        shapes: those shapes.
    """

    title: str
    profiled: Sequence[Row]
    by_role: Sequence[Row]
    by_class: Sequence[Row]
    shapes: Sequence[Row]

    @classmethod
    def of(cls, name: str, recording: StepRecording, model: StepModel | None) -> "KernelReport":
        """Compare a recording with the operations of its model; only attribute its kernels where there is no model."""
        facts = dict(recording.facts)
        title = (
            f"{name}: {recording.model}, {facts.get('device', '?')}, {facts.get('engine', '?')}, {recording.backend}"
        )
        accounts = [(step, account(step, model)) for step in recording.profiled]
        shapes = [_shape_row(label, steps, model) for label, steps in recording.timed.items()] if model else []
        return cls(
            title,
            [_step_row(step, roles, recording.gpu_us(step.label)) for step, roles in accounts],
            _role_rows(accounts),
            _class_rows(shapes),
            shapes,
        )

    def document(self) -> dict[str, Any]:
        """Plain dictionaries, lists and numbers."""
        return asdict(self)

    def tables(self) -> Iterator[Table]:
        """For people."""
        if self.profiled:
            yield Table(
                f"{self.title}: GPU time of kernels, beside the sum of predicted operations", _STEPS, self.profiled
            )
            if any(row["operations"] for row in self.by_role):
                yield kernel_classes("by class of step", self.profiled)
                yield self._matrix()
            yield Table(
                "by what the kernels belong to, over these steps",
                _ROLES,
                self.by_role,
                "Kernels alone, without the gaps between them; launches of one step, the most common number.",
            )
        if not self.by_class:
            return
        yield Table(
            f"{self.title}: GPU time of steps without profiler, gaps included, beside the sum of predicted operations",
            _SPANS,
            self.by_class,
        )

    def _matrix(self) -> Table:
        """Each step by role: us of kernels, and the error of what is predicted for them."""
        roles = [row["role"] for row in self.by_role if row["operations"]]
        columns = [Column("label", "step")]
        for role in roles:
            columns += [Column(f"{role}_us", f"{role} (us)", ",.0f"), Column(f"{role}_percent", "error (%)", "+.1f")]
        return Table("step by step", columns, [_matrix_row(row, roles) for row in self.profiled])


def kernel_classes(title: str, profiled: Iterable[Row]) -> Table:
    """Errors of the sum of predicted operations beside kernels, over steps of each class; rows of `profiled`."""
    errors: dict[str, dict[str, float]] = {kind: {} for kind in _KINDS}
    for row in profiled:
        if row["error_percent"] is not None:
            errors[row["kind"]][row["label"]] = row["error_percent"]
    rows = [{"kind": kind, "steps": len(found), **_spread(found)} for kind, found in errors.items() if found]
    return Table(title, _SUMS, rows)


def _matrix_row(step: Row, roles: Sequence[str]) -> Row:
    times = {each["role"]: each for each in step["roles"]}
    row: dict[str, Any] = {"label": step["label"]}
    for role in roles:
        each = times.get(role)
        measured = each["measured_us"] if each else None
        row[f"{role}_us"] = measured
        row[f"{role}_percent"] = _error(each["predicted_us"], measured) if each and measured else None
    return row


def _error(predicted: float, measured: float) -> float:
    return 100.0 * (predicted / measured - 1.0)


def _step_row(step: EngineStep, roles: Sequence[RoleTime], gpu_us: float | None) -> Row:
    known = any(each.operations for each in roles)
    predicted = sum(each.predicted_us for each in roles) if known else None
    unknown = sum(each.measured_us for each in roles if each.role == "unattributed")
    return {
        "label": step.label,
        "kind": step.batch.kind,
        "mode": step.mode,
        "padded": step.padded,
        "kernels_us": step.kernels_us,
        "unattributed_percent": 100 * unknown / step.kernels_us,
        "predicted_us": predicted,
        "error_percent": None if predicted is None else _error(predicted, step.kernels_us),
        "gpu_us": gpu_us,
        "roles": [asdict(each) for each in roles],
    }


def _role_rows(accounts: Sequence[tuple[EngineStep, Sequence[RoleTime]]]) -> list[Row]:
    total = sum(step.kernels_us for step, _ in accounts)
    found: dict[str, list[tuple[str, RoleTime]]] = {}
    for step, roles in accounts:
        for each in roles:
            found.setdefault(each.role, []).append((step.label, each))
    rows: list[Row] = []
    for role, each in found.items():
        errors = {
            label: _error(time.predicted_us, time.measured_us)
            for label, time in each
            if time.operations and time.measured_us
        }
        rows.append(
            {
                "role": role,
                "share_percent": 100 * sum(time.measured_us for _, time in each) / total,
                "operations": max(time.operations for _, time in each),
                "launches": statistics.mode(time.launches for _, time in each),
                **_spread(errors),
            }
        )
    return rows


def _shape_row(label: str, steps: Sequence[EngineStep], model: StepModel) -> Row:
    """One shape over its repetitions; where the host is slower than the GPU, the GPU waits for it."""
    predicted = [recorded_cost(model, step.batch, step.padded).span_us(idle=True) for step in steps]
    measured = statistics.median(step.gpu_us for step in steps)
    return {
        "label": label,
        "kind": steps[0].batch.kind,
        "mode": steps[0].mode,
        "steps": len(steps),
        "measured_us": measured,
        "predicted_us": statistics.median(predicted),
        "error_percent": _error(statistics.median(predicted), measured),
        "noise_percent": _noise(steps),
    }


def _noise(steps: Sequence[EngineStep]) -> float | None:
    """Median deviation of single steps from their median, percent."""
    if len(steps) < 3:
        return None
    middle = statistics.median(step.gpu_us for step in steps)
    return 100 * statistics.median(abs(step.gpu_us - middle) for step in steps) / middle


def _class_rows(shapes: Sequence[Row]) -> list[Row]:
    rows: list[Row] = []
    for kind in _KINDS:
        mine = [shape for shape in shapes if shape["kind"] == kind]
        if mine:
            noise = [shape["noise_percent"] for shape in mine if shape["noise_percent"] is not None]
            rows.append(
                {
                    "kind": kind,
                    "shapes": len(mine),
                    "steps": sum(shape["steps"] for shape in mine),
                    "noise_percent": statistics.median(noise) if noise else None,
                    **_spread({shape["label"]: shape["error_percent"] for shape in mine}),
                }
            )
    return rows


def _spread(errors: Mapping[str, float]) -> dict[str, Any]:
    """Signed errors by step: medians, 90th percentile of sizes, and the worst with its step."""
    if not errors:
        return dict.fromkeys(("median_percent", "p90_percent", "bias_percent", "worst_percent", "worst_step"))
    sizes = sorted(abs(error) for error in errors.values())
    worst = max(errors, key=lambda label: abs(errors[label]))
    return {
        "median_percent": statistics.median(sizes),
        "p90_percent": sizes[min(len(sizes) - 1, int(0.9 * len(sizes)))],
        "bias_percent": statistics.median(errors.values()),
        "worst_percent": errors[worst],
        "worst_step": worst,
    }
