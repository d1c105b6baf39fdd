"""The power limit of a GPU in steps: in one from a rest on, and in many that follow each other."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import exp

from dooly.batch import StepCost
from dooly.fit.formula import Formula
from dooly.hardware.gpus import Recovery, gpu_of
from dooly.host import POWER_LIMIT
from dooly.predict.sizes import ONE_STEP, Number, Sizes

__all__ = ["NO_LIMIT", "PowerLimit", "PowerState"]

NOT_MEASURED = Recovery()
"""Recovery of GPUs of which nothing else is known."""


@dataclass(frozen=True)
class PowerLimit:
    """How long a GPU takes for the work of steps that have prompts: large products, one after the other.

    Steps that only decode, or have few tokens, are light: they stay below the limit.

    Attributes:
        formula: over U, work at full clocks in us from a rest on; None where nothing is known of a limit.
        recovery: how the GPU forgets what it did.
    """

    formula: Formula | None = None
    recovery: Recovery = NOT_MEASURED

    @classmethod
    def of(cls, formulas: Mapping[str, Formula], device: str = "") -> "PowerLimit":
        """From formulas by signature, of a device by its name."""
        return cls(formulas.get(POWER_LIMIT), gpu_of(device).recovery)

    def acts_on(self, sizes: Sizes) -> Number:
        """Whether a step can reach the limit."""
        if self.formula is None:
            return False
        return (sizes.tokens > sizes.requests) & (sizes.tokens >= self.recovery.fewest_tokens)

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

    def us(self, work_us: Number, sizes: Sizes = ONE_STEP) -> tuple[Number, Number]:
        """GPU time (us) under the power limit, from rest, of work that takes `work_us` at full clocks.

        Returns:
            The time, and whether it is extrapolated.
        """
        least_us, most_us = self._range_us
        if self.formula is None or not sizes.any(work_us > least_us):
            return work_us, sizes.choose(work_us < 0, True, False)
        within_us = -sizes.longest(-sizes.longest(work_us, least_us), -most_us)
        taken_us, _ = sizes.latency(self.formula, {"U": within_us})
        whole_us, slope = self._beyond
        beyond = work_us > most_us
        taken_us = sizes.choose(beyond, whole_us + slope * (work_us - most_us), sizes.longest(work_us, taken_us))
        return sizes.choose(work_us > least_us, taken_us, work_us), beyond

    def after(self, done_us: float, work_us: float) -> float:
        """us that work takes once `done_us` of work was done since the last rest."""
        return self.us(done_us + work_us)[0] - self.us(done_us)[0]

    def light(self, done_us: float) -> float:
        """Factor of a light step, once so much work was done."""
        piece_us, _ = self._range_us
        if done_us <= piece_us:
            return 1.0
        return 1.0 + self.recovery.light_share * (self.after(done_us, piece_us) / piece_us - 1.0)


NO_LIMIT = PowerLimit()


class PowerState:
    """A GPU that takes one step after the other: how much of its work since the last rest still counts.

    What was done is forgotten exponentially while there is no work, and more slowly in light steps (`Recovery`).
    """

    def __init__(self, limit: PowerLimit) -> None:
        self._limit, self._done_us, self._end_s = limit, 0.0, 0.0

    def device_us(self, cost: StepCost, begin_s: float) -> float:
        """us that the device takes for a step that it begins at `begin_s`; steps come in order."""
        if self._limit.formula is None:
            return cost.device_us
        recovery = self._limit.recovery
        self._done_us *= exp(min(0.0, 1e6 * (self._end_s - begin_s) / recovery.idle_us))
        if cost.work_us:
            taken_us = self._limit.after(self._done_us, cost.work_us)
            self._done_us = min(self._done_us + cost.work_us, recovery.most_us)
        else:
            taken_us = cost.device_us * self._limit.light(self._done_us)
            self._done_us *= exp(-taken_us / recovery.light_us)
        self._end_s = begin_s + taken_us / 1e6
        return taken_us
