"""Step times by named part of the model, fast enough for the inner loop of a simulator."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

from dooly.batch import StepBatch, StepCost
from dooly.errors import PredictError
from dooly.predict.step_model import StepModel
from dooly.predict.step_ops import Work

__all__ = ["Parts"]

Shares = Callable[[Work], Mapping[str, float]]
"""Which parts a line of work belongs to, as fractions that add up to 1."""


class Parts:
    """Divides the device time of steps.

    Work over tokens, requests and rows of logits is remembered for each combination of them; work that looks at each
    request (attention) is computed.

    Args:
        names: of the parts.
        shares: of each line of work.

    Raises:
        PredictError: shares of some work do not add up to 1, or name another part.
    """

    def __init__(self, steps: StepModel, names: Sequence[str], shares: Shares) -> None:
        self.steps, self.names = steps, tuple(names)
        index = {name: i for i, name in enumerate(self.names)}
        self._fixed: list[tuple[Work, list[tuple[int, float]]]] = []
        by_window: dict[int | None, list[tuple[Work, list[tuple[int, float]]]]] = {}
        for work in steps.work:
            found = shares(work)
            if not found.keys() <= index.keys() or abs(sum(found.values()) - 1) > 1e-9:
                raise PredictError(f"{work.operation.name}: shares {dict(found)} are no division into {self.names}")
            entry = (work, [(index[name], share) for name, share in found.items()])
            if {symbol for _, symbol in work.sizes} <= {"T", "R", "L"}:
                self._fixed.append(entry)
            else:
                by_window.setdefault(work.subject.window, []).append(entry)
        self._varying = list(by_window.items())
        self.fixed = lru_cache(maxsize=65536)(self._sum_fixed)

    def _sum_fixed(self, tokens: int, requests: int, logits: int) -> tuple[float, ...]:
        """us of each part, of the work that these sizes decide."""
        values = {"T": self.steps.padded(tokens, requests), "R": requests, "L": logits}
        times = [0.0] * len(self.names)
        for work, targets in self._fixed:
            total, _ = work.alone_us(values)
            for i, share in targets:
                times[i] += total * share
        return tuple(times)

    def varying(self, batch: StepBatch) -> float:
        """us of the work that looks at each request."""
        return sum(
            work.alone_us({**batch.attention(window), "L": batch.logits})[0]
            for window, group in self._varying
            for work, _ in group
        )

    def at(self, batch: StepBatch) -> tuple[StepCost, list[float], float]:
        """The step's cost, us of each part, and what the step takes beyond them and the host's work before and after:
        dispatch, waiting for kernels to be queued, what the power limit adds."""
        cost = self.steps.step_time(batch)
        times = list(self.fixed(batch.tokens, batch.count, batch.logits))
        for window, group in self._varying:
            values = {**batch.attention(window), "L": batch.logits}
            for work, targets in group:
                total, _ = work.alone_us(values)
                for i, share in targets:
                    times[i] += total * share
        return cost, times, cost.total_us - cost.host_before_us - cost.host_after_us - sum(times)
