"""Timing methods of a running object without editing its class."""

import time
from collections.abc import Callable
from typing import Any

__all__ = ["Stopwatch"]


class Stopwatch:
    """Times wrapped methods.

    Attributes:
        spent: seconds spent in each since the last `reset`, by name.
        began: when each was called last (time.perf_counter).
        last: what each returned last.
    """

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self.began: dict[str, float] = {}
        self.last: dict[str, Any] = {}
        self._wrapped: list[tuple[Any, str]] = []

    def watch(self, owner: Any, method: str, name: str) -> None:
        """Time `owner.method` under `name` from now on."""
        original: Callable[..., Any] = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            result = original(*args, **kwargs)
            self.spent[name] = self.spent.get(name, 0.0) + time.perf_counter() - start
            self.began[name] = start
            self.last[name] = result
            return result

        setattr(owner, method, timed)
        self._wrapped.append((owner, method))

    def reset(self) -> None:
        """Start over, at the beginning of a step."""
        self.spent.clear()
        self.began.clear()
        self.last.clear()

    def unwrap(self) -> None:
        """Put the methods back as they were."""
        for owner, method in self._wrapped:
            delattr(owner, method)  # the wrapper hid the method of the class
        self._wrapped.clear()
