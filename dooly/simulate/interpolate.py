"""Step times between which only the contexts grow: computed at two ends, interpolated in between."""

from __future__ import annotations

from collections.abc import Callable

from dooly.batch import StepBatch, StepCost
from dooly.simulate.compact_batch import CompactBatch

__all__ = ["DecodeCosts"]

FURTHEST = 32  # steps
SHARE = 16  # of the mean context


class DecodeCosts:
    """Cost of steps, asked in order.

    While the same requests decode, their contexts grow by one token a step and the time changes smoothly; it is
    computed for a step and for one up to 32 steps (at most a 16th of the mean context) later, and is linear in between.

    Attributes:
        ahead: how many of the next steps lie in between, if the same requests decode.
    """

    def __init__(self, cost: Callable[[StepBatch], StepCost]) -> None:
        self._cost = cost
        self._composition = -1
        self.ahead = self._at = 0
        self._start = self._slope = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
        self._extrapolated, self._fixed_us = False, (0.0, 0.0, 0.0)

    def __call__(self, batch: StepBatch) -> StepCost:
        """Cost of the next step."""
        if not isinstance(batch, CompactBatch) or batch.composition < 0:
            self._composition, self.ahead = -1, 0
            return self._cost(batch)
        if batch.composition != self._composition:  # many sets of requests last for one step only
            self._composition, self.ahead = batch.composition, 0
            return self._cost(batch)
        if self.ahead:
            return self.further()
        steps = min(batch.sums["S"] // (SHARE * batch.count), FURTHEST)
        start = self._cost(batch)
        if steps >= 4:
            self._from(start, self._cost(batch.later(steps)), steps)
        return start

    def further(self) -> StepCost:
        """Cost of the next step, one of those `ahead`."""
        self.ahead -= 1
        self._at = at = self._at + 1
        before, device, after, total, launch, lead = (a + b * at for a, b in zip(self._start, self._slope))
        return StepCost(before, device, after, total, self._extrapolated, launch, lead, *self._fixed_us)

    def _from(self, start: StepCost, end: StepCost, steps: int) -> None:
        self._at, self.ahead = 0, steps - 1
        self._start = _parts(start)
        before, device, after, total, launch, lead = ((b - a) / steps for a, b in zip(self._start, _parts(end)))
        self._slope = (before, device, after, total, launch, lead)
        self._extrapolated = start.extrapolated or end.extrapolated
        self._fixed_us = start.between_us, start.plan_us, start.work_us


def _parts(cost: StepCost) -> tuple[float, float, float, float, float, float]:
    return cost.host_before_us, cost.device_us, cost.host_after_us, cost.total_us, cost.launch_us, cost.lead_us
