"""The power limit of a GPU in steps: in one from a rest on, and in many that follow each other."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import exp

import numpy as np
from numpy.typing import NDArray

from dooly.batch import POWER_LIMIT, StepCost
from dooly.fit.formula import Formula
from dooly.predict.step_ops import GRID, on_grid

__all__ = ["FEWEST_TOKENS", "NO_LIMIT", "PowerLimit", "PowerState"]

_MOST_US = 100_000.0
"""More work leaves the clocks where they are."""

FEWEST_TOKENS = 256
"""Steps of fewer have products that wait for memory: those of 128 rows lose 4 % in the end, those of 32 nothing."""

_IDLE_US, _LIGHT_US = 14_000.0, 40_000.0
"""In so long a time without work, or with light steps, all but 1/e of what was done is forgotten."""

_LIGHT_SHARE = 0.2
"""Share that light steps lose of what products lose by lower clocks: they wait for memory."""


@dataclass(frozen=True)
class PowerLimit:
    """How long a GPU takes for the work of steps that have prompts: large products, one after the other.

    Steps that only decode, or have few tokens, are light: they stay below the limit.

    Attributes:
        formula: over U, work at full clocks in us from a rest on; None where nothing is known of a limit.
    """

    formula: Formula | None = None

    @classmethod
    def of(cls, formulas: Mapping[str, Formula]) -> "PowerLimit":
        """From formulas by signature."""
        return cls(formulas.get(POWER_LIMIT))

    def acts_on(self, tokens: int, requests: int) -> bool:
        """Whether a step of so many tokens and requests can reach the limit."""
        return self.formula is not None and tokens > requests and tokens >= FEWEST_TOKENS

    @cached_property
    def _range_us(self) -> tuple[float, float]:
        """Less work was not measured, since no limit is reached with it; and the most that was."""
        return (0.0, 0.0) if self.formula is None else (self.formula.domain[0].low, self.formula.domain[0].high)

    @cached_property
    def _beyond(self) -> tuple[float, float]:
        """us that the most work takes that was measured, and how much longer each us more: as in the last octave."""
        assert self.formula is not None
        most_us = self._range_us[1]
        half, whole = (self.formula.predict_one({"U": work_us})[0] for work_us in (most_us / 2, most_us))
        return whole, max(1.0, (whole - half) / (most_us / 2))

    def one(self, work_us: float) -> tuple[float, bool]:
        """us that work takes which takes `work_us` at full clocks, from a rest on, and whether extrapolated."""
        least_us, most_us = self._range_us
        if self.formula is None or work_us <= least_us:
            return work_us, False
        if work_us > most_us:
            whole_us, slope = self._beyond
            return round((whole_us + slope * (work_us - most_us)) * GRID) / GRID, True
        taken_us, _ = self.formula.predict_one({"U": work_us})
        return round(max(work_us, taken_us) * GRID) / GRID, False

    def many(self, work_us: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """`one` for many."""
        least_us, most_us = self._range_us
        if self.formula is None or not (work_us > least_us).any():
            return work_us, np.zeros(len(work_us), dtype=bool)
        taken_us, _ = self.formula.predict({"U": np.clip(work_us, least_us, most_us)})
        whole_us, slope = self._beyond
        taken_us = np.where(work_us > most_us, whole_us + slope * (work_us - most_us), np.maximum(work_us, taken_us))
        return on_grid(np.where(work_us > least_us, taken_us, work_us)), work_us > most_us

    def after(self, done_us: float, work_us: float) -> float:
        """us that work takes once `done_us` of work was done since the last rest."""
        return self.one(done_us + work_us)[0] - self.one(done_us)[0]

    def light(self, done_us: float) -> float:
        """Factor of a light step, once so much work was done."""
        piece_us, _ = self._range_us
        if done_us <= piece_us:
            return 1.0
        return 1.0 + _LIGHT_SHARE * (self.after(done_us, piece_us) / piece_us - 1.0)


NO_LIMIT = PowerLimit()


class PowerState:
    """A GPU that takes one step after the other: how much of its work since the last rest still counts.

    What was done is forgotten exponentially while there is no work, and more slowly in light steps.  The
    constants are those of an H200 (2026-11-29): after 0.4 s of products a pause of 10 ms gives back half of what the
    limit takes, one of 20 ms nearly all; products of 20 ms with pauses of 5, 10 and 20 ms take 1.08, 1.02 and 1.00 of
    their time, with 20 and 60 ms of decoding in place of the pauses 1.07 and 1.00; decoding takes up to 1.03.
    """

    def __init__(self, limit: PowerLimit) -> None:
        self._limit, self._done_us, self._end_s = limit, 0.0, 0.0

    def device_us(self, cost: StepCost, begin_s: float) -> float:
        """us that the device takes for a step that it begins at `begin_s`; steps come in order."""
        if self._limit.formula is None:
            return cost.device_us
        self._done_us *= exp(min(0.0, 1e6 * (self._end_s - begin_s) / _IDLE_US))
        if cost.work_us:
            taken_us = self._limit.after(self._done_us, cost.work_us)
            self._done_us = min(self._done_us + cost.work_us, _MOST_US)
        else:
            taken_us = cost.device_us * self._limit.light(self._done_us)
            self._done_us *= exp(-taken_us / _LIGHT_US)
        self._end_s = begin_s + taken_us / 1e6
        return taken_us
