"""The simulated clock of one engine: when a step starts, how long host and device take, when its tokens are out."""

from __future__ import annotations

from collections import deque

from dooly.batch import StepCost
from dooly.predict import PowerLimit, PowerState

__all__ = ["Clock"]


class Clock:
    """Steps are launched and finished in order; several may be under way.

    Attributes:
        now_s: of the host.
        free_s: when the device has done all that was launched.
    """

    def __init__(self, power: PowerLimit) -> None:
        self.now_s = self.free_s = 0.0
        self._power = PowerState(power)
        self._under_way: deque[tuple[float, float]] = deque()

    def launch(self, cost: StepCost) -> float:
        """The host prepares and queues a step; returns us that the device takes for it."""
        now_s = self.now_s + (cost.host_before_us - cost.plan_us) / 1e6
        free_s = self.free_s + cost.between_us / 1e6
        if cost.plan_us > 0.0:
            now_s = max(now_s, free_s) + cost.plan_us / 1e6
        # The device starts with the first kernel that is queued, and cannot end before the last one is.
        begin_s = max(free_s, now_s + cost.lead_us / 1e6)
        device_us = self._power.device_us(cost, begin_s)
        self.now_s = now_s = now_s + cost.launch_us / 1e6
        self.free_s = free_s = max(begin_s + device_us / 1e6, now_s)
        self._under_way.append((free_s, cost.host_after_us / 1e6))
        return device_us

    def launch_nothing(self) -> None:
        """A step that computes nothing."""
        self._under_way.append((self.now_s, 0.0))

    def finish(self) -> None:
        """The host waits for the oldest step under way and takes its tokens."""
        end_s, host_after_s = self._under_way.popleft()
        self.now_s = max(self.now_s, end_s) + host_after_s
