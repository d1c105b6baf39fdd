"""Step times between which only the contexts grow: computed now and then, interpolated in between."""

from __future__ import annotations

from collections.abc import Callable

from dooly.batch import StepBatch, StepCost
from dooly.simulate.compact_batch import NEVER, CompactBatch

__all__ = ["DecodeCosts"]

FURTHEST = 32  # steps
SHARE = 16  # of the mean context


class DecodeCosts:
    """Cost of steps, asked in order.

    While the same requests decode, their contexts grow by one token a step and the time changes smoothly: it is
    computed for the first of such steps and from there every 32 steps (at most a 16th of the mean context), as they are
    asked for, and is linear in between.
    """

    def __init__(self, cost: Callable[[StepBatch], StepCost]) -> None:
        self._cost = cost
        self._composition = NEVER
        self._at = self._length = 0

    def __call__(self, batch: StepBatch) -> StepCost:
        """Cost of the next step."""
        if not isinstance(batch, CompactBatch) or batch.composition == NEVER:
            self._composition = NEVER
            return self._cost(batch)
        if batch.composition == self._composition:
            return self.further()
        self._composition, self._at, self._length = batch.composition, 0, 0
        self._end, self._end_cost = batch, self._cost(batch)
        return self._end_cost

    def further(self) -> StepCost:
        """Cost of the next step, if the same requests decode in it."""
        if self._at == self._length:
            self._extend()
        self._at = at = self._at + 1
        before, device, after, total, _, launch, lead, between, plan, work = self._start
        before_slope, device_slope, after_slope, total_slope, launch_slope, lead_slope = self._slopes
        return StepCost(
            before + before_slope * at,
            device + device_slope * at,
            after + after_slope * at,
            total + total_slope * at,
            self._extrapolated,
            launch + launch_slope * at,
            lead + lead_slope * at,
            between,
            plan,
            work,
        )

    def _extend(self) -> None:
        """Go on from the last step that was computed to another."""
        start, batch = self._end_cost, self._end
        steps = max(1, min(batch.sums["S"] // (SHARE * batch.count), FURTHEST))
        self._end = batch.later(steps)
        end = self._end_cost = self._cost(self._end)
        self._start, self._at, self._length = start, 0, steps
        self._extrapolated = start.extrapolated or end.extrapolated
        self._slopes = (
            (end.host_before_us - start.host_before_us) / steps,
            (end.device_us - start.device_us) / steps,
            (end.host_after_us - start.host_after_us) / steps,
            (end.total_us - start.total_us) / steps,
            (end.launch_us - start.launch_us) / steps,
            (end.lead_us - start.lead_us) / steps,
        )
