"""The real engine serving small workloads, step by step."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from dooly.engine import EngineSettings
from dooly.live import Engine, start_engine
from dooly.probe import Probe, SeenStep

__all__ = ["Workload", "record"]

Workload = tuple[tuple[int, int], ...]
"""(prompt tokens, output tokens) of requests that are submitted together."""


def record(
    folder: Path, settings: EngineSettings, warm_up: Iterable[Workload], groups: Iterable[Sequence[Workload]]
) -> Iterator[list[SeenStep]]:
    """Serve the workloads with the real engine, one after the other; after each group of them, all its steps.

    Raises:
        SimulationError: the engine does not start.
    """
    with start_engine(folder, settings) as engine:
        _serve(engine, warm_up, "warm-up")
        for number, group in enumerate(groups):
            with Probe(engine) as probe:
                _serve(engine, group, f"timed-{number}")
            yield probe.steps


def _serve(engine: Engine, batches: Iterable[Workload], label: str) -> None:
    for number, batch in enumerate(batches):
        for index, (prompt, output) in enumerate(batch):
            ids = [(7 * number + 3 * index + place) % engine.vocab_size for place in range(prompt)]
            engine.add(f"{label}-{number}-{index}", ids, output)
        while engine.busy():
            engine.step()
