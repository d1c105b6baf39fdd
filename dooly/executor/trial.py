"""Runners of an operation: built once with its weights, asked for one trial per point."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from dooly.database import Point, Samples
from dooly.executor.timing.cpu import Precision

__all__ = ["Runner", "Trial", "Unsupported", "is_out_of_memory"]


class Unsupported(Exception):
    """No code here can run this operation as the engine would; the text says why."""


@dataclass(frozen=True)
class Trial:
    """One point ready to be timed.

    Fields:
        call: does the work once, set-up excluded, and returns its result.
        inputs: the tensors that it reads besides its weights.
        aside: what was noted while setting up, e.g. how long attention metadata took (host work, not of the kernel).
        turns: calls until the same weights or caches come round again.
        fresh: inputs that another operation of the step has just written.  On a GPU they are in the cache at each call
            and nothing else is.  None: calls follow one another, and the weights in turn push all else out.
        captured: whether the engine has it in its CUDA graphs, where it uses any.
        elsewhere: times it where it runs, if that is not this process.
    """

    call: Callable[[], Any]
    inputs: tuple[Any, ...] = ()
    aside: tuple[tuple[str, float], ...] = ()
    turns: int = 1
    fresh: tuple[Any, ...] | None = None
    captured: bool = True
    elsewhere: Callable[[Precision], Samples] | None = None


class Runner(Protocol):
    """Holds the weights of one operation."""

    @property
    def weight_bytes(self) -> int:
        """Memory that it keeps between points."""
        ...

    def trial(self, point: Point) -> Trial:
        """Set up one point."""
        ...


def is_out_of_memory(error: Exception) -> bool:
    """Whether there was no room: on the host, or on a GPU as torch says it with an exception of its own."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
