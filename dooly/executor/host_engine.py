"""The real engine serving small workloads, step by step."""

from collections.abc import Iterable
from pathlib import Path

from dooly.engine import EngineSettings
from dooly.live import Engine, start_engine
from dooly.probe import Probe, SeenStep

__all__ = ["Workload", "record"]

Workload = tuple[tuple[int, int], ...]
"""(prompt tokens, output tokens) of requests that are submitted together."""


def record(
    folder: Path, settings: EngineSettings, warm_up: Iterable[Workload], workloads: Iterable[Workload]
) -> list[SeenStep]:
    """Serve the workloads with the real engine, one after the other; all steps but those of the warm-up.

    Raises:
        SimulationError: the engine does not start.
    """
    with start_engine(folder, settings) as engine:
        _serve(engine, warm_up, "warm-up")
        with Probe(engine) as probe:
            _serve(engine, workloads, "timed")
        return probe.steps


def _serve(engine: Engine, batches: Iterable[Workload], label: str) -> None:
    for number, batch in enumerate(batches):
        for index, (prompt, output) in enumerate(batch):
            ids = [(7 * number + 3 * index + place) % engine.vocab_size for place in range(prompt)]
            engine.add(f"{label}-{number}-{index}", ids, output)
        while engine.busy():
            engine.step()
