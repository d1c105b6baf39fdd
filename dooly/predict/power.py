"""What the power limit of a GPU makes of a step."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dooly.batch import POWER_LIMIT
from dooly.fit.formula import Formula
from dooly.predict.work import GRID

__all__ = ["PowerLimit"]


@dataclass(frozen=True)
class PowerLimit:
    """How long a rested GPU takes for the work of a step that has prompts: large products, one after the other.

    Steps that only decode wait for memory and stay below the limit.  The GPU is taken to be rested when a step begins.

    Attributes:
        formula: over U, work at full clocks in us; None where nothing is known of a limit.
    """

    formula: Formula | None = None

    @classmethod
    def of(cls, formulas: Mapping[str, Formula]) -> "PowerLimit":
        """From formulas by signature."""
        return cls(formulas.get(POWER_LIMIT))

    @cached_property
    def _least_us(self) -> float:
        """Less work was not measured, since no limit is reached with it."""
        return 0.0 if self.formula is None else self.formula.domain[0].low

    def one(self, work_us: float, tokens: int, requests: int) -> tuple[float, bool]:
        """us that a step takes whose operations take `work_us` by themselves, and whether extrapolated."""
        if self.formula is None or tokens <= requests or work_us <= self._least_us:
            return work_us, False
        taken_us, beyond = self.formula.predict_one({"U": work_us})
        return round(max(work_us, taken_us) * GRID) / GRID, beyond

    def many(
        self, work_us: NDArray[np.float64], tokens: NDArray[np.int64], requests: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """`one` for many steps."""
        slowed = (tokens > requests) & (work_us > self._least_us)
        if self.formula is None or not slowed.any():
            return work_us, np.zeros(len(work_us), dtype=bool)
        taken_us, beyond = self.formula.predict({"U": np.maximum(work_us, self._least_us)})
        return np.where(slowed, np.maximum(work_us, taken_us), work_us), beyond & slowed
