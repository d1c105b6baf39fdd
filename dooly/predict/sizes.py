"""Sizes of one step, as numbers, and of many, as columns: the arithmetic of step times is written once for both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dooly.batch import MODES, BatchColumns, StepBatch
from dooly.fit.formula import Formula
from dooly.host import OPTIONAL_AXES, HostPart
from dooly.predict.graphs import GraphPlan

__all__ = ["ONE_STEP", "Number", "Sizes", "columns_of", "sizes_of", "sizes_of_many"]

Number = Any
"""A float, or float64[steps]; of conditions a bool, or bool[steps]."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes that decide the time of a step but for its attention.

    Attributes:
        tokens, requests, prompts, logits: new tokens, requests, those with more than one new token, rows of logits.
        mode: CUDA graph mode, by place in `MODES`.
        padded: tokens that all but attention works on.
    """

    tokens: Number
    requests: Number
    prompts: Number
    logits: Number
    mode: Number
    padded: Number

    def symbols(self) -> dict[str, Number]:
        """Request symbols of operations other than attention."""
        return {"T": self.padded, "R": self.requests, "L": self.logits}

    def holds(self, part: HostPart) -> Number:
        """Whether a part of the host's time is a part of the step."""
        found: Number = True
        if part.modes != MODES:
            places = [MODES.index(mode) for mode in part.modes]
            found = self.mode == places[0]
            for place in places[1:]:
                found = found | (self.mode == place)
        if part.mixed:
            found = found & self.mixed
        return found

    @property
    def mixed(self) -> Number:
        """Whether requests decode beside prompts."""
        return (self.prompts > 0) & (self.prompts < self.requests)

    def at(self, axis: str, part: HostPart, counts: Mapping[str, int]) -> Number:
        """Value of an axis of a part of the host's time; `counts` of the model's operations by what a part counts."""
        if axis in OPTIONAL_AXES:
            count = counts[OPTIONAL_AXES[axis]]
            return self.choose(self.mixed, count, 0) if axis == "Y" else count
        count = 1 if part.counted is None else counts[part.counted]
        return {"N": count, "R": self.requests, "T": self.tokens, "Rp": self.prompts}[axis]

    # One step; `_Columns` has the same for many.

    def latency(self, formula: Formula, values: Mapping[str, Number]) -> tuple[Number, Number]:
        """us by a formula, and whether extrapolated."""
        return formula.predict_one(values)

    def choose(self, condition: Number, then: Number, otherwise: Number) -> Number:
        """One of two values, by a condition."""
        return then if condition else otherwise

    def longest(self, *values: Number) -> Number:
        """The largest of several values."""
        return max(values)

    def any(self, condition: Number) -> bool:
        """Whether the condition holds for any step."""
        return bool(condition)

    def by_mode(self, values: Sequence[float]) -> Number:
        """One value by the step's mode, of those in the order of `MODES`."""
        return values[self.mode]


@dataclass(frozen=True, slots=True)
class _Columns(Sizes):
    """Sizes of many steps, int64[steps] each."""

    def at(self, axis: str, part: HostPart, counts: Mapping[str, int]) -> Number:
        return np.broadcast_to(np.asarray(Sizes.at(self, axis, part, counts), dtype=np.float64), len(self.tokens))

    def latency(self, formula: Formula, values: Mapping[str, Number]) -> tuple[Number, Number]:
        us, outside = formula.predict(values)
        return np.broadcast_to(us, len(self.tokens)), np.broadcast_to(outside, len(self.tokens))

    def choose(self, condition: Number, then: Number, otherwise: Number) -> Number:
        return np.where(condition, then, otherwise)

    def longest(self, *values: Number) -> Number:
        first, *more = values
        for value in more:
            first = np.maximum(first, value)
        return first

    def any(self, condition: Number) -> bool:
        return bool(np.any(condition))

    def by_mode(self, values: Sequence[float]) -> Number:
        return np.array(values)[self.mode]


def sizes_of(batch: StepBatch, graphs: GraphPlan | None) -> Sizes:
    """The sizes of one step.

    Args:
        graphs: CUDA graphs that the engine captured; None where nothing is padded.
    """
    tokens, requests = batch.tokens, batch.count
    prompts = 0 if tokens == requests else batch.attention()["Rp"]
    mode, padded = ("NONE", tokens) if graphs is None else graphs.at(tokens, requests)
    return Sizes(tokens, requests, prompts, batch.logits, MODES.index(mode), padded)


def sizes_of_many(batches: BatchColumns, graphs: GraphPlan | None) -> Sizes:
    """`sizes_of` for many steps."""
    tokens, requests = batches.tokens, np.diff(batches.starts, append=len(batches.new))
    modes, padded = np.full(len(batches), MODES.index("NONE")), tokens
    if graphs is not None:
        modes, padded = graphs.many(tokens, requests)
    return _Columns(tokens, requests, batches.prompts, batches.logits, modes, padded)


ONE_STEP = Sizes(1, 1, 0, 1, MODES.index("NONE"), 1)
"""Any single step, where values are given and its own sizes do not count."""


def columns_of(steps: int) -> Sizes:
    """So many steps, likewise."""
    ones = np.ones(steps, dtype=np.int64)
    return _Columns(ones, ones, np.zeros_like(ones), ones, np.full(steps, MODES.index("NONE")), ones)
