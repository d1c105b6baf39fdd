"""Pipeline stages: which layers each has, and which stages are alike.

vLLM gives each of ``PP`` stages ``Nl // PP`` layers, and what remains to the stages before the last, from the back:
stage ``p`` has ``(Nl + p + 1) // PP`` layers, the last ``Nl // PP``.  These add up to ``Nl``.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import cast

from dooly.ir.expr import Expr, FloorDiv, evaluate, symbol

__all__ = ["Stage", "distinct_stages"]


@dataclass(frozen=True)
class Stage:
    """A stage that stands for all stages like it.

    Attributes:
        rank: the first of them; last: the last of them.
        of: number of stages.
        start: index of the first layer of stage ``rank``.
        kinds: of its layers.
        layers: how many it has, over ``Nl`` and ``PP``.
    """

    rank: int
    last: int
    of: int
    start: int
    kinds: tuple[Hashable, ...]
    layers: Expr

    @property
    def is_first(self) -> bool:
        """Whether it starts with the embedding."""
        return self.rank == 0

    @property
    def ranks(self) -> str:
        """The stages as the graph has them: ``0``, ``1-6``."""
        return str(self.rank) if self.rank == self.last else f"{self.rank}-{self.last}"


def distinct_stages(kinds: tuple[Hashable, ...], stages: int) -> tuple[Stage, ...]:
    """The stages of a model whose layers are of these kinds; neighbours in the middle that are alike are one.

    >>> [(stage.ranks, len(stage.kinds), str(stage.layers)) for stage in distinct_stages(("dense",) * 30, 4)]
    [('0', 7, 'FloorDiv(Nl + 1, PP)'), ('1-2', 8, 'FloorDiv(Nl + 2, PP)'), ('3', 7, 'FloorDiv(Nl, PP)')]
    """
    found: list[Stage] = []
    start = 0
    for rank in range(stages):
        more = 0 if rank == stages - 1 else rank + 1
        layers = symbol("Nl") if stages == 1 else cast(Expr, FloorDiv(symbol("Nl") + more, symbol("PP")))
        own = kinds[start : (start := start + int(evaluate(layers, {"Nl": len(kinds), "PP": stages})))]
        before = found[-1] if found else None
        if before is not None and not before.is_first and rank < stages - 1 and before.kinds == own:
            found[-1] = Stage(before.rank, rank, stages, before.start, own, before.layers)
        else:
            found.append(Stage(rank, rank, stages, start - len(own), own, layers))
    return tuple(found)
