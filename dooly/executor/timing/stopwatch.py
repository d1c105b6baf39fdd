"""A clock that stands still while other processes have the processor."""

import time
from pathlib import Path

__all__ = ["Stopwatch"]

_WAITED = Path("/proc/thread-self/schedstat")
"""Nanoseconds that this thread ran, and that it was ready to run and did not."""


class Stopwatch:
    """Seconds since it was made, of a thread that goes on with it.

    Attributes:
        started_s: when that was, on the clock of `time.monotonic`.
    """

    def __init__(self) -> None:
        self.started_s = time.monotonic()
        self._waited_s = _waited_s()

    @property
    def elapsed_s(self) -> float:
        """Seconds of the clock on the wall."""
        return time.monotonic() - self.started_s

    @property
    def waited_s(self) -> float:
        """Seconds in which the thread could have run and others did; 0 where the platform does not say."""
        return max(0.0, _waited_s() - self._waited_s)

    @property
    def busy_s(self) -> float:
        """Seconds of `elapsed_s` in which nothing else was in the way."""
        return self.elapsed_s - self.waited_s


def _waited_s() -> float:
    try:
        return int(_WAITED.read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0
