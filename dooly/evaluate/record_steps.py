"""Single steps of the real engine, shape by shape: timed several times, and once with what ran on the GPU listed."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import numpy as np

from dooly.engine.local import Engine
from dooly.engine.probe import Probe, SeenStep
from dooly.errors import SimulationError
from dooly.evaluate.steps import EngineStep, Kernel

__all__ = ["record_steps", "shapes"]

CONTEXT = 1024
DECODES = (1, 8, 32, 128)
PREFILLS = (128, 512, 2048, 8192)
CHUNK = 512
REPEATS = 6


def record_steps(engine: Engine, rng: np.random.Generator, most_requests: int, most_tokens: int) -> list[EngineStep]:
    """Decode steps of requests with about 1,024 cached tokens, prompts alone, and one prompt beside the decodes.

    Steps are finished one by one, as with synchronous scheduling.

    Args:
        engine: on a GPU, idle.
        rng: draws the prompts.
        most_requests, most_tokens: limits of the engine; `shapes` says what becomes of what is beyond them.  More
            requests than the KV cache holds are left out.

    Raises:
        SimulationError: there is no GPU.
    """
    if engine.device != "cuda":
        raise SimulationError("single steps are recorded with the kernels of a GPU; there is none here")
    overlapped = engine.overlaps
    engine.overlaps = False
    prefills, decodes = shapes(most_requests, most_tokens, engine.max_model_len)
    with Probe(engine) as probe:
        recorder = _Shapes(engine, probe, rng)
        for tokens in prefills:
            recorder.prefill(tokens)
        for requests in decodes:
            recorder.decode(requests)
    engine.overlaps = overlapped
    return recorder.steps()


def shapes(most_requests: int, most_tokens: int, context: int) -> tuple[list[int], list[int]]:
    """Tokens of prompts alone, and requests that decode, of an engine with these limits.

    Prompts that are longer than a step or a context are as long as fits.  Requests that are too many, or whose contexts
    would be full before they were recorded, are left out.

    >>> shapes(64, 4096, 2048)
    ([128, 512, 2047], [1, 8, 32])
    """
    prefills = sorted({min(tokens, most_tokens, context - 1) for tokens in PREFILLS})
    return prefills, [n for n in DECODES if n <= most_requests and CONTEXT + _outputs(n) <= context]


def _outputs(requests: int) -> int:
    """Tokens that each of so many requests puts out: while the others are prefilled, and in the steps recorded."""
    return 2 * (REPEATS + 2) + requests * CONTEXT // CHUNK + 8


class _Shapes:
    def __init__(self, engine: Engine, probe: Probe, rng: np.random.Generator) -> None:
        self._engine, self._probe, self._rng = engine, probe, rng
        self._count = 0
        self._taken: list[tuple[str, SeenStep, tuple[Kernel, ...]]] = []

    def prefill(self, tokens: int) -> None:
        for turn in range(REPEATS + 2):
            self._add(tokens, 1)
            self._step(f"prefill-{tokens}", turn)
            self._drain()

    def decode(self, requests: int) -> None:
        for _ in range(requests):
            self._add(CONTEXT, _outputs(requests))
        self._engine.step()
        while self._engine.busy() and not self._all_decode(requests):
            self._engine.step()
        if not self._engine.busy():
            return  # the KV cache holds fewer
        for turn in range(REPEATS + 2):
            self._step(f"decode-{requests}", turn)
        for turn in range(REPEATS + 2):
            self._add(CHUNK, 1)
            self._step(f"mixed-{requests}+{CHUNK}", turn)
        self._drain()

    def _all_decode(self, requests: int) -> bool:
        last = self._probe.steps[-1].batch
        return last.kind == "decode" and last.count == requests

    def steps(self) -> list[EngineStep]:
        """The steps that were taken; asks the GPU's events."""
        return [
            EngineStep(
                label=label,
                batch=step.batch,
                mode=step.mode,
                padded=step.padded,
                wall_us=step.total_us,
                gpu_us=step.device_us,
                detail=(
                    ("schedule_us", 1e6 * (step.scheduled_s - step.start_s)),
                    ("prepare_us", 1e6 * (step.called_s - step.scheduled_s)),
                    ("launch_us", step.launch_us),
                    ("results_us", 1e6 * (step.ready_s - step.issued_s)),
                    ("update_us", 1e6 * (step.end_s - step.ready_s)),
                ),
                kernels=kernels,
            )
            for label, step, kernels in self._taken
        ]

    def _add(self, tokens: int, outputs: int) -> None:
        self._count += 1
        prompt = self._rng.integers(0, self._engine.vocab_size, tokens).tolist()
        self._engine.add(f"shape-{self._count}", prompt, outputs)

    def _step(self, label: str, turn: int) -> None:
        """The first of a shape warms up and is left out; the last is profiled."""
        launches: list[tuple[str, float]] = []
        if turn > REPEATS:
            with _profiled() as launches:
                self._engine.step()
        else:
            self._engine.step()
        if turn > 0:
            self._taken.append((label, self._probe.steps[-1], Kernel.totals(launches)))

    def _drain(self) -> None:
        while self._engine.busy():
            self._engine.step()


@contextmanager
def _profiled() -> Generator[list[tuple[str, float]]]:
    """List the launches on the GPU meanwhile as (name, us), complete when the block has ended."""
    import torch

    launches: list[tuple[str, float]] = []
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        yield launches
        torch.cuda.synchronize()
    events: Any = profiler.profiler.kineto_results.events()  # pyright: ignore[reportOptionalMemberAccess]
    on_gpu = [event for event in events if event.device_type().name == "CUDA"]
    launches += [(event.name(), event.duration_ns() / 1e3) for event in on_gpu]
