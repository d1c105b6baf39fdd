"""Single steps of the real engine, recorded one shape at a time: whole-step and GPU time, and what ran on the GPU.

A recording is one JSON file for one model, one machine and one setting of the engine.  Its steps are repeated, so that
medians and their scatter can be told; some of them ran under a profiler and list their kernels.
"""

import json
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dooly.batch import Batch
from dooly.engine.settings import EngineSettings
from dooly.files import read_text, write_text
from dooly.simulate.reading import check_format, finite, named, reading, whole

__all__ = ["FORMAT", "EngineStep", "Kernel", "StepRecording", "load_steps", "save_steps"]

FORMAT = "dooly-steps 1"
NAME_LENGTH = 160


@dataclass(frozen=True, slots=True)
class Kernel:
    """All launches of one kernel in one step.

    Attributes:
        name: as the profiler gives it, its first 160 characters.
        count: launches.
        us: GPU time of all of them together.
    """

    name: str
    count: int
    us: float

    @classmethod
    def totals(cls, launches: Iterable[tuple[str, float]]) -> "tuple[Kernel, ...]":
        """From single launches (name, us) of a step; kernels with most time first."""
        times: dict[str, list[float]] = {}
        for name, us in launches:
            times.setdefault(name[:NAME_LENGTH], []).append(us)
        kernels = (cls(name, len(each), sum(each)) for name, each in times.items())
        return tuple(sorted(kernels, key=lambda kernel: (-kernel.us, kernel.name)))


@dataclass(frozen=True)
class EngineStep:
    """One step of the real engine.

    Attributes:
        label: the shape that was asked for, e.g. ``decode-8``; equal for its repetitions.
        batch: what the step worked on.
        mode: CUDA graph mode that the engine chose: ``FULL``, ``PIECEWISE`` or ``NONE``.
        padded: tokens that the engine computed, padding included.
        wall_us: the whole step, from schedule to the scheduler's update.
        gpu_us: from the first kernel of the step to the end of the last, by CUDA events: model, logits and sampling
            with the gaps in between.
        detail: finer times by name, us; what the recorder had.
        kernels: what ran on the GPU, if the step was profiled.  A profiler slows the host, so that `wall_us` and
            `gpu_us` of such a step say little.
    """

    label: str
    batch: Batch
    mode: str
    padded: int
    wall_us: float
    gpu_us: float
    detail: tuple[tuple[str, float], ...] = ()
    kernels: tuple[Kernel, ...] = ()

    @property
    def kernels_us(self) -> float:
        """GPU time of all kernels, gaps left out; 0 if the step was not profiled."""
        return sum(kernel.us for kernel in self.kernels)


@dataclass(frozen=True)
class StepRecording:
    """Steps of one model on one machine.

    Attributes:
        model: bundled model; its configuration is what ran, with random weights.
        tp: tensor-parallel size.
        backend: attention backend.
        settings: of the engine.
        facts: the machine and software (sorted key, value), among them ``device`` and ``engine``.
        steps: in the order in which they ran.
    """

    model: str
    tp: int
    backend: str
    settings: EngineSettings
    facts: tuple[tuple[str, str], ...]
    steps: tuple[EngineStep, ...]

    @property
    def timed(self) -> dict[str, tuple[EngineStep, ...]]:
        """Steps without profiler by label, repetitions together."""
        found: dict[str, list[EngineStep]] = {}
        for step in self.steps:
            if not step.kernels:
                found.setdefault(step.label, []).append(step)
        return {label: tuple(steps) for label, steps in found.items()}

    @property
    def profiled(self) -> tuple[EngineStep, ...]:
        """Steps that list their kernels."""
        return tuple(step for step in self.steps if step.kernels)

    def gpu_us(self, label: str) -> float | None:
        """Median GPU time of a shape over its repetitions without profiler; None if there is none."""
        steps = self.timed.get(label)
        return statistics.median(step.gpu_us for step in steps) if steps else None


def save_steps(recording: StepRecording, path: str | Path) -> None:
    """Write a recording as JSON, one line per step.

    Raises:
        DoolyError: the file cannot be written.
    """
    header = {
        "format": FORMAT,
        "model": recording.model,
        "tp": recording.tp,
        "backend": recording.backend,
        "settings": asdict(recording.settings),
        "facts": dict(recording.facts),
    }
    steps = ",\n".join(json.dumps(_fields(step), separators=(",", ":")) for step in recording.steps)
    write_text(path, f'{json.dumps(header)[:-1]},\n"steps": [\n{steps}\n]}}\n')


def _fields(step: EngineStep) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "label": step.label,
        "batch": step.batch.point()["requests"],
        "mode": step.mode,
        "padded": step.padded,
        "wall_us": round(step.wall_us, 2),
        "gpu_us": round(step.gpu_us, 2),
    }
    if step.detail:
        fields["detail"] = {name: round(us, 2) for name, us in step.detail}
    if step.kernels:
        fields["kernels"] = [[kernel.name, kernel.count, round(kernel.us, 2)] for kernel in step.kernels]
    return fields


def load_steps(path: str | Path) -> StepRecording:
    """Read what `save_steps` wrote.

    Raises:
        SimulationError: the file cannot be read or does not hold recorded steps.
    """
    with reading(path, "recorded steps"):
        content: dict[str, Any] = json.loads(read_text(path))
        check_format(path, content, FORMAT)
        return StepRecording(
            model=named(content["model"]),
            tp=whole(content["tp"]),
            backend=str(content["backend"]),
            settings=EngineSettings(**content["settings"]),
            facts=tuple(sorted((str(name), str(value)) for name, value in content["facts"].items())),
            steps=tuple(_step(fields) for fields in content["steps"]),
        )


def _step(fields: Mapping[str, Any]) -> EngineStep:
    return EngineStep(
        label=str(fields["label"]),
        batch=Batch.from_point({"requests": fields["batch"]}),
        mode=str(fields["mode"]),
        padded=whole(fields["padded"]),
        wall_us=finite(fields["wall_us"]),
        gpu_us=finite(fields["gpu_us"]),
        detail=tuple((str(name), finite(us)) for name, us in fields.get("detail", {}).items()),
        kernels=tuple(Kernel(str(name), whole(count), finite(us)) for name, count, us in fields.get("kernels", ())),
    )
