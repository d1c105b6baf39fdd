"""Collectives, and what pipeline stages hand on, between real ranks: as seen by the process that asks for them."""

from functools import partial
from typing import TYPE_CHECKING

from dooly.database import Point
from dooly.executor.tensors import need_memory
from dooly.executor.trial import Trial
from dooly.ir import Operation, evaluate
from dooly.ir.expr import Expr

if TYPE_CHECKING:
    from dooly.executor.session import Session

__all__ = ["CollectiveRunner", "ranks_of"]


def ranks_of(operation: Operation) -> int:
    """Ranks that take part: those of the group, or a sender and a receiver."""
    ranks = operation.attr("ranks")
    return int(ranks) if isinstance(ranks, Expr) else 2


class CollectiveRunner:
    """``all_reduce``, ``all_gather``, ``reduce_scatter``, ``send`` or ``recv`` between processes that are ranks.

    Which kernel does it (custom all-reduce, symmetric memory, NCCL, shared memory of a CPU) is the engine's choice.
    """

    weight_bytes = 0

    def __init__(self, operation: Operation, session: "Session") -> None:
        self._operation, self._session = operation, session

    def trial(self, point: Point) -> Trial:
        """One call of all ranks with T tokens; it returns operands and result of each rank, as float64.

        Raises:
            MemoryError: operands and results would not fit on one device.
        """
        operation = self._operation
        types = (*operation.operands, *operation.results)
        need_memory(2 * sum(int(evaluate(type_.bytes, point.axes)) for type_ in types), self._session.machine)
        ranks = self._session.ranks(ranks_of(operation))
        return Trial(partial(ranks.call, operation, point), elsewhere=partial(ranks.measure, operation, point))
