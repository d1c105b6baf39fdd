"""The real engine serving small workloads, step by step."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from dooly.batch import StepClass
from dooly.engine.local import Engine, start_engine
from dooly.engine.probe import Probe, SeenStep
from dooly.engine.settings import EngineSettings

__all__ = ["Asked", "TimedStep", "Workload", "record"]


class Asked(NamedTuple):
    """A request of a workload.

    Fields:
        prompt, output: tokens.
        after: steps of the workload that are taken before it is submitted.
    """

    prompt: int
    output: int
    after: int = 0


Workload = tuple[Asked, ...]
"""Requests that an idle engine serves, in the order in which they are submitted."""


@dataclass(frozen=True, slots=True)
class TimedStep:
    """The times of a `SeenStep` as numbers: no events of a GPU.

    Fields:
        requests, tokens, kind: of its batch.
        prompts: requests with more than one new token.
        mode: how its kernels were launched.
        overlapped: whether it was composed while the step before it ran.
        before_us, launch_us, device_us, total_us: as of `SeenStep`.
        between_us: from the end of the step before on the GPU to its own beginning, if it was composed meanwhile.
    """

    requests: int
    tokens: int
    mode: str
    overlapped: bool
    before_us: float
    launch_us: float
    device_us: float
    total_us: float
    between_us: float | None = None
    kind: StepClass = "decode"
    prompts: int = 0

    @property
    def after_us(self) -> float:
        """From the end of its kernels, of a step that is not overlapped, to the moment its tokens are taken."""
        return self.total_us - self.before_us - max(self.launch_us, self.device_us)

    @classmethod
    def of(cls, step: SeenStep, overlapped: bool, before: SeenStep | None = None) -> "TimedStep":
        """Asks the GPU's events, so the step must have ended; `before` is the one before it, if there was one."""
        between_us = None
        if overlapped and before is not None and step.start_s < before.ready_s:
            between_us = step.gap_us(before)
        times = step.before_us, step.launch_us, step.device_us, step.total_us
        batch, prompts = step.batch, sum(new > 1 for new, _ in step.batch.requests)
        return cls(batch.count, batch.tokens, step.mode, overlapped, *times, between_us, batch.kind, prompts)


def record(
    folder: Path,
    settings: EngineSettings,
    warm_up: Sequence[Workload],
    workloads: Sequence[Workload],
    overlapped: Sequence[Workload] = (),
    backend: str | None = None,
) -> list[TimedStep]:
    """Serve the workloads with the real engine, one after the other; all steps but those of the warm-up.

    Args:
        workloads: each step is finished before the next is composed.
        overlapped: the engine's scheduling is asynchronous.
        backend: attention backend by the engine's name; its own choice by default.

    Raises:
        SimulationError: the engine does not start.
    """
    steps: list[TimedStep] = []
    with start_engine(folder, settings, backend=backend) as engine:
        engine.overlaps = False
        _serve(engine, warm_up, "warm-up")
        for overlaps, batches in ((False, workloads), (True, overlapped)):
            if batches:
                engine.overlaps = overlaps
                with Probe(engine) as probe:
                    _serve(engine, batches, "overlapped" if overlaps else "timed")
                pairs = zip([None, *probe.steps], probe.steps)
                steps += [TimedStep.of(step, overlaps, before) for before, step in pairs]
    return steps


def _serve(engine: Engine, batches: Sequence[Workload], label: str) -> None:
    for number, batch in enumerate(batches):
        waiting, taken = deque(enumerate(batch)), 0
        while waiting or engine.busy():
            while waiting and waiting[0][1].after <= taken:
                index, asked = waiting.popleft()
                ids = [(7 * number + 3 * index + place) % engine.vocab_size for place in range(asked.prompt)]
                engine.add(f"{label}-{number}-{index}", ids, asked.output)
            engine.step()
            taken += 1
