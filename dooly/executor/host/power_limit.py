"""The power limit of a GPU that large products keep busy: how long so much work takes once it has rested.

For some tens of milliseconds a rested GPU may draw more than its limit; then its clocks go down, in steps.  Operations
are measured rested, so a step of many tokens takes longer than they do by themselves.
"""

import functools
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dooly.database import Point, Samples
from dooly.executor.runners import make_runner
from dooly.executor.session import open_session
from dooly.executor.timing.cpu import ALONE
from dooly.executor.timing.gpu import between_events, captured, check_clocks, gauge, side_stream
from dooly.hardware.machine import Machine
from dooly.ir import Operation

__all__ = ["WORK_US", "kept_busy", "measure_power_limit"]

WORK_US = tuple(round(10_000 * 2 ** (place / 4)) for place in range(29))
"""Work that is timed, us at full clocks: from 10 ms to 1.3 s."""

_ROWS = 2048
_TURNS = 5
_REST_S = 0.5
_FRESH_US = 15_000.0
"""So long a rested GPU is at full clocks in any case."""


def measure_power_limit(machine: Machine, products: Sequence[Operation]) -> dict[Point, Samples]:
    """Points {U} of ``power_limit``, each with the us that so much work took in each turn.

    Args:
        products: matrix products over T alone, such as those of one layer; their time at full clocks is what counts.

    Raises:
        Unsupported, MemoryError: a product cannot be run here.
        Slowed: something else than its power limit slows the GPU down.
    """
    with open_session(machine) as session, side_stream():
        calls = [make_runner(each, session).trial(Point.of(T=_ROWS)).call for each in products]
        _all(calls)  # what the library sets up at its first product cannot be captured
        layer = captured(functools.partial(_all, calls), 1, ALONE)
        found = kept_busy(functools.partial(_turn, layer), _TURNS)
        check_clocks(gauge().read(), ALONE)
        return found


def kept_busy(turn: Callable[[int], list[float]], turns: int) -> dict[Point, Samples]:
    """How long work takes from a rest on, of pieces that are all alike.

    Args:
        turn: rests and then does so many pieces in a row; us of each.
    """
    first = turn(3)
    found = [turn(_pieces(WORK_US[-1], min(first))) for _ in range(turns)]
    fresh = [us for times in found for us, so_far in zip(times, itertools.accumulate(times)) if so_far < _FRESH_US]
    piece_us = float(np.median(fresh or [min(map(min, found))]))
    done = piece_us * np.arange(1 + len(found[0]))
    taken = [np.cumsum([0.0, *times]) for times in found]
    return {
        Point.of(U=work_us): Samples(tuple(float(np.interp(work_us, done, each)) for each in taken))
        for work_us in WORK_US
        if work_us <= done[-1]
    }


def _pieces(work_us: float, piece_us: float) -> int:
    """A few more than it takes: the first ones may have been slow."""
    return round(1.1 * work_us / piece_us) + 1


def _turn(layer: Callable[[], object], pieces: int) -> list[float]:
    """The first piece, which waits for the host, is not counted."""
    time.sleep(_REST_S)
    return between_events([layer] * (pieces + 1), ALONE)[1:]


def _all(calls: Sequence[Callable[[], Any]]) -> None:
    for call in calls:
        call()
