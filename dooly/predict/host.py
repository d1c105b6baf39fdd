"""Time of the host around and between the operations of a step."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dooly.batch import HOST_PARTS
from dooly.errors import PredictError
from dooly.fit.formula import Formula

__all__ = ["HostModel"]


@dataclass(frozen=True)
class HostModel:
    """Host work, measured once per host and engine; it depends on the model only through its number of operations.

    Attributes:
        before: scheduling and input preparation over R and T.
        after: sampling and bookkeeping over R and T.
        dispatch: what a forward pass takes beyond the latencies of its operations, over their number N.
    """

    before: Formula
    after: Formula
    dispatch: Formula

    @classmethod
    def of(cls, formulas: Mapping[str, Formula]) -> "HostModel":
        """From formulas by signature.

        Raises:
            PredictError: one of `HOST_PARTS` is missing.
        """
        for part in HOST_PARTS:
            if part not in formulas:
                raise PredictError(
                    f"host: no formula of {part}; `dooly profile` measures the host once, then run `dooly fit`"
                )
        return cls(*(formulas[part] for part in HOST_PARTS))

    def one(self, tokens: int, requests: int) -> tuple[float, float, bool]:
        """(before, after) in us and whether either is extrapolated, for one step."""
        values = {"T": float(tokens), "R": float(requests)}
        before, outside = self.before.predict_one(values)
        after, beyond = self.after.predict_one(values)
        return before, after, outside or beyond

    def many(
        self, tokens: NDArray[np.float64], requests: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
        """`one` for many steps."""
        values = {"T": tokens, "R": requests}
        before, outside = self.before.predict(values)
        after, beyond = self.after.predict(values)
        return np.broadcast_to(before, len(tokens)), np.broadcast_to(after, len(tokens)), outside | beyond
