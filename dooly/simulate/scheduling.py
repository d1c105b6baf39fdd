"""The interface between the simulated clock and a scheduler: the engine's own, or the compact one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from dooly.batch import StepBatch
from dooly.simulate.trace import TraceRequest

__all__ = ["Scheduler", "Step", "TokenEvent"]


class TokenEvent(NamedTuple):
    """A request's first token, its first after a preemption, or its last.

    Attributes:
        name: of the request.
        tokens: output tokens so far.
        finished: whether this was the last.
        cached_tokens: of its prompt, found in the prefix cache when it was first scheduled.
    """

    name: str
    tokens: int
    finished: bool
    cached_tokens: int


class Step(Protocol):
    """One composed step."""

    @property
    def batch(self) -> StepBatch | None:
        """The work of the step; None if nothing is to be computed."""
        ...


class Scheduler(Protocol):
    """Composes steps and takes their results, in order."""

    depth: int

    def submit(self, name: str, request: TraceRequest) -> None:
        """Queue a request."""
        ...

    def busy(self) -> bool:
        """Whether there is something to schedule (true once more after the last request, to flush)."""
        ...

    def schedule(self) -> Step:
        """Compose the next step."""
        ...

    def update(self, step: Any) -> Sequence[TokenEvent]:
        """Take a step's results: the tokens that came out and that are events."""
        ...

    def preempted(self, step: Any) -> Sequence[str]:
        """The requests that lost their KV blocks when this step was composed."""
        ...
