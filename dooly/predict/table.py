"""Latencies over one request symbol, tabulated as far as they are asked for."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dooly.predict.sizes import Number, columns_of
from dooly.predict.step_ops import Work

__all__ = ["SizeTable"]

_FIRST = 1024


class SizeTable:
    """Sum over the work whose latency one symbol decides.

    Row n holds the time at n; row 0 is free.  The table doubles when a larger value is asked for.
    """

    def __init__(self, symbol: str, work: Sequence[Work]) -> None:
        self._symbol, self._work = symbol, tuple(work)
        self._latency_us: NDArray[np.float64] = np.zeros(1)
        self._outside: NDArray[np.bool_] = np.zeros(1, dtype=bool)
        self._rows: list[tuple[float, bool]] = [(0.0, False)]

    def _reach(self, largest: int) -> None:
        """Tabulate up to and including `largest`."""
        have = len(self._latency_us)
        if largest < have:
            return
        size = max(_FIRST, 1 << largest.bit_length())
        more = np.arange(have, size, dtype=np.float64)
        latency, outside = np.zeros(len(more)), np.zeros(len(more), dtype=bool)
        sizes = columns_of(len(more))
        for each in self._work:
            total, beyond = each.total_us({self._symbol: more}, sizes)
            latency += total
            outside |= beyond
        self._latency_us = np.concatenate([self._latency_us, latency])
        self._outside = np.concatenate([self._outside, outside])
        self._rows = list(zip(self._latency_us.tolist(), self._outside.tolist(), strict=True))

    def at(self, values: Number) -> tuple[Number, Number]:
        """us and whether extrapolated, of one value or of many."""
        if isinstance(values, int):
            if values >= len(self._rows):
                self._reach(values)
            return self._rows[values]
        self._reach(int(values.max()))
        return self._latency_us[values], self._outside[values]
