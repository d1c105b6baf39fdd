"""Captures that tests share."""

from functools import cache

from dooly.ir import Graph


@cache
def captured(model: str, tp: int = 1) -> Graph:
    """The graph of a bundled model, captured once in a test process."""
    from dooly.capture import capture

    return capture(model, tp=tp)
