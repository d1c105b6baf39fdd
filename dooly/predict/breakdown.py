"""The time of a step by operation and host part."""

from dataclasses import dataclass

from dooly.batch import StepCost

__all__ = ["Breakdown", "Row"]


@dataclass(frozen=True)
class Row:
    """One share of a step.

    Attributes:
        name: of the operation, or of the host's part.
        signature: of the operation; of the host's part its name.
        kind: ``gemm``, ``attention``, ..., or ``host``.
        count: runs in the step.
        each_us, total_us: of one run and of all.
        share: of the step's total, 0..1.
        extrapolated: asked outside the sizes that were measured.
        source: what the time rests on where that is not dooly's own points of the machine; else empty.
    """

    name: str
    signature: str
    kind: str
    count: int
    each_us: float
    total_us: float
    share: float
    extrapolated: bool
    source: str = ""


@dataclass(frozen=True)
class Breakdown:
    """Rows in the order of the step; their ``total_us`` add up to exactly ``cost.total_us``."""

    rows: tuple[Row, ...]
    cost: StepCost
