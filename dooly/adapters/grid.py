"""Steps over a grid of sizes, and what lay outside of the measured ones."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dooly.batch import Batch, StepBatch
from dooly.errors import PredictError
from dooly.predict import SavedModel

__all__ = ["Limits", "Outside", "doubling", "step_ms"]


@dataclass(frozen=True)
class Limits:
    """How large the tables of an export become: most tokens and requests of a step, longest context of a request.

    Raises:
        PredictError: one of them is no size.
    """

    tokens: int
    requests: int
    context: int

    def __post_init__(self) -> None:
        if min(self.tokens, self.requests) < 1 or self.context < 16:
            raise PredictError(
                f"tables up to {self.tokens} tokens, {self.requests} requests, contexts of {self.context}; "
                "expected at least 1, 1 and 16"
            )


@dataclass
class Outside:
    """Steps that lay outside of the measured sizes.

    Attributes:
        steps: all that were asked for.
        count: those outside.
        tokens, requests, context: largest among those.
        shortest: shortest context among those.
    """

    steps: int = 0
    count: int = 0
    tokens: int = 0
    requests: int = 0
    context: int = 0
    shortest: int = 0

    def note(self, batch: StepBatch, extrapolated: bool) -> None:
        """Count a step."""
        self.steps += 1
        if extrapolated:
            self.add(batch)

    def add(self, batch: StepBatch) -> None:
        """Count a step that lay outside."""
        contexts = [q + c for q, c in batch.requests]
        self.shortest = min(self.shortest, *contexts) if self.count else min(contexts)
        self.count += 1
        self.tokens = max(self.tokens, batch.tokens)
        self.requests = max(self.requests, len(batch.requests))
        self.context = max(self.context, *contexts)

    def message(self, model: str) -> str:
        """Description of what happened and what to measure; empty if nothing did."""
        if not self.count:
            return ""
        return (
            f"{self.count} of {self.steps} steps lay outside the sizes that were measured (up to {self.tokens} tokens, "
            f"{self.requests} requests, contexts {self.shortest} to {self.context}); `dooly profile {model} "
            f"--max-tokens {self.tokens} --max-requests {self.requests} --max-context {self.context}` reaches as far"
        )


def doubling(largest: int) -> list[int]:
    """1, 2, 4, ... and `largest` itself.

    >>> doubling(10)
    [1, 2, 4, 8, 10]
    """
    sizes = [1 << i for i in range(largest.bit_length()) if 1 << i < largest]
    return [*sizes, largest]


def step_ms(model: SavedModel, batches: Sequence[Batch], outside: Outside) -> NDArray[np.float64]:
    """Milliseconds of each step, float64[batches]; steps that are extrapolated are noted in `outside`."""
    times = model.steps.step_times(batches)
    outside.steps += len(batches)
    for i in np.flatnonzero(times.extrapolated).tolist():
        outside.add(batches[i])
    return times.total_us / 1e3
