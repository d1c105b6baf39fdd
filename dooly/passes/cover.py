"""cover: say of each operation whether the latency database holds it."""

from dataclasses import dataclass, field, replace
from typing import ClassVar

from dooly.errors import PassError
from dooly.ir import Kind, Operation, Program, kind_of
from dooly.passes.facts import LOWERED, Fact

__all__ = ["Cover"]


@dataclass(frozen=True)
class Cover:
    """Mark operations ``covered``, ``uncovered`` or, where nothing can measure them, ``unsupported``.

    Attributes:
        known: signatures of which a database has all points that a sweep asks for; empty where none was asked.

    Needs ``dedup``.  Keeps everything else.  Idempotent.
    """

    name: ClassVar[str] = "cover"
    requires: ClassVar[tuple[Fact, ...]] = (LOWERED,)
    establishes: ClassVar[tuple[Fact, ...]] = (LOWERED,)
    known: frozenset[str] = field(default=frozenset())

    def run(self, program: Program, /) -> Program:
        return replace(program, operations=tuple(replace(op, status=self._status(op)) for op in program.operations))

    def _status(self, operation: Operation) -> str:
        if operation.signature in self.known:
            return "covered"
        return "unsupported" if _is_unknown(operation) else "uncovered"


def _is_unknown(operation: Operation) -> bool:
    inner = operation.body.ops if operation.body is not None else ()
    return operation.kind is Kind.UNKNOWN or any(kind_of(op.target) is Kind.UNKNOWN for op in inner)
