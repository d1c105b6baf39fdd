"""Time of the host around, between and behind the operations of a step."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dooly.batch import HOST_PARTS, LAUNCH_PARTS, MODES, POWER_LIMIT
from dooly.errors import PredictError
from dooly.fit.formula import Formula

__all__ = ["PLANNED_LATE", "HostModel", "knows_host", "needed_parts"]

PLANNED_LATE = frozenset({"FLASHINFER"})
"""Attention backends that read a batch's lengths back from the device before they plan it.

vLLM 0.26.0's builder of FlashInfer metadata asks for ``seq_lens_cpu``: a copy that waits for all that is queued, so for
the end of the step before (0.32.0 takes an upper bound that the host knows; no GPU was measured under it).  It has just
heard of the device then, which starts with the next graph at once.
"""


def needed_parts(*, on_gpu: bool) -> tuple[str, ...]:
    """Parts of the host's time without which none of it is known."""
    return ("host_before", "host_after", *(LAUNCH_PARTS if on_gpu else ("host_dispatch",)))


@dataclass(frozen=True)
class HostModel:
    """Host work, measured once per host and engine.

    It depends on the model only through the number of its operations, and of its mixtures of experts.

    Attributes:
        before: scheduling and input preparation over R, T and Rp.
        after: bookkeeping once the results are there over R, T and Rp.
        dispatch: what a forward pass takes beyond the latencies of its operations, over their number N, where the host
            waits for each; None on a GPU.
        launch: queueing a step's kernels, by place in `MODES`, over N and R: operations that are queued one by one
            (attention operations, around which the rest is graphs, in mode PIECEWISE) and requests; empty on a CPU.
        lead: of mode FULL over R, until an idle device starts; None where that was not measured.
        between: over R, until a device that is still at the step before starts; None where that was not measured.
        experts: over N and R, queueing N mixtures of experts in the engine; None where that was not measured.
        flashinfer: over R, queueing one attention of FlashInfer where requests decode beside prompts, beyond that of
            another backend; None where that was not measured.
    """

    before: Formula
    after: Formula
    dispatch: Formula | None
    launch: tuple[Formula, ...]
    lead: Formula | None
    between: Formula | None = None
    experts: Formula | None = None
    flashinfer: Formula | None = None

    @classmethod
    def of(cls, formulas: Mapping[str, Formula]) -> "HostModel":
        """From formulas by signature.

        Raises:
            PredictError: a part is missing.
        """
        on_gpu = any(part in formulas for part in LAUNCH_PARTS)
        for part in needed_parts(on_gpu=on_gpu):
            if part not in formulas:
                raise PredictError(
                    f"host: no formula of {part}; `dooly profile` measures the host, `dooly fit` fits what is there"
                )
        launch = tuple(formulas[part] for part in LAUNCH_PARTS) if on_gpu else ()
        dispatch = None if on_gpu else formulas["host_dispatch"]
        more = ("host_lead", "host_between", "host_experts", "host_flashinfer")
        known = (formulas.get(part) if on_gpu else None for part in more)
        return cls(formulas["host_before"], formulas["host_after"], dispatch, launch, *known)

    def one(self, tokens: int, requests: int, prompts: int) -> tuple[float, float, bool]:
        """(before, after) in us and whether either is extrapolated, for one step.

        Args:
            prompts: requests with more than one new token.
        """
        values = {"T": float(tokens), "R": float(requests), "Rp": float(prompts)}
        before, outside = self.before.predict_one(values)
        after, beyond = self.after.predict_one(values)
        return before, after, outside or beyond

    def launch_one(self, mode: int, operations: int, requests: int) -> tuple[float, bool]:
        """us of queueing a step in mode `MODES[mode]`, and whether extrapolated."""
        return self.launch[mode].predict_one({"N": float(operations), "R": float(requests)})

    def lead_one(self, mode: int, requests: int) -> tuple[float, bool]:
        """us of it after which an idle device starts, and whether extrapolated."""
        if self.lead is None or MODES[mode] != "FULL":
            return 0.0, False
        return self.lead.predict_one({"R": float(requests)})

    def experts_one(self, mixtures: int, requests: int) -> tuple[float, bool]:
        """us of queueing mixtures of experts among the engine's other work, and whether extrapolated."""
        if self.experts is None:
            return 0.0, False
        return self.experts.predict_one({"N": float(mixtures), "R": float(requests)})

    def experts_many(
        self, mixtures: int, requests: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """`experts_one` for many steps."""
        return _over(self.experts, {"N": np.full(len(requests), float(mixtures)), "R": requests})

    def flashinfer_one(self, requests: int) -> tuple[float, bool]:
        """us of queueing one attention of FlashInfer beyond the usual in a mixed step, and whether extrapolated."""
        return (0.0, False) if self.flashinfer is None else self.flashinfer.predict_one({"R": float(requests)})

    def flashinfer_many(self, requests: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """`flashinfer_one` for many steps."""
        return _over(self.flashinfer, {"R": requests})

    def between_one(self, requests: int) -> tuple[float, bool]:
        """us until a device that is still at the step before starts, in any mode; whether extrapolated."""
        return (0.0, False) if self.between is None else self.between.predict_one({"R": float(requests)})

    def many(
        self, tokens: NDArray[np.float64], requests: NDArray[np.float64], prompts: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
        """`one` for many steps."""
        values = {"T": tokens, "R": requests, "Rp": prompts}
        before, outside = self.before.predict(values)
        after, beyond = self.after.predict(values)
        return np.broadcast_to(before, len(tokens)), np.broadcast_to(after, len(tokens)), outside | beyond

    def launch_many(
        self, modes: NDArray[np.int64], operations: tuple[int, ...], requests: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """`launch_one` for many steps; `operations` by mode."""
        found, beyond = np.zeros(len(modes)), np.zeros(len(modes), dtype=bool)
        for mode, formula in enumerate(self.launch):
            at = modes == mode
            if at.any():
                count = np.full(int(at.sum()), float(operations[mode]))
                found[at], beyond[at] = formula.predict({"N": count, "R": requests[at]})
        return found, beyond

    def lead_many(
        self, modes: NDArray[np.int64], requests: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """`lead_one` for many steps."""
        found, beyond = np.zeros(len(modes)), np.zeros(len(modes), dtype=bool)
        at = modes == MODES.index("FULL")
        if self.lead is not None and at.any():
            found[at], beyond[at] = self.lead.predict({"R": requests[at]})
        return found, beyond


def _over(
    formula: Formula | None, columns: Mapping[str, NDArray[np.float64]]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """us of each step, and whether extrapolated; zero without a formula."""
    steps = len(columns["R"])
    if formula is None:
        return np.zeros(steps), np.zeros(steps, dtype=bool)
    found, beyond = formula.predict(columns)
    return np.broadcast_to(found, steps), beyond


def knows_host(formulas: Mapping[str, Formula]) -> bool:
    """Whether any part of the host's time is among formulas by signature; what a power limit does is the device's."""
    return any(part in formulas for part in HOST_PARTS if part != POWER_LIMIT)
