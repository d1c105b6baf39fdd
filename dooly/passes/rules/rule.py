"""Rewrite rules: what a rule sees and what it may answer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dooly.ir import Op, TensorType
from dooly.ir.expr import Expr

__all__ = ["Context", "Rewrite", "Rule", "axis_of"]


@dataclass(frozen=True)
class Context:
    """Facts that a rule may look at: definitions seen so far, and how often each value is read."""

    defs: Mapping[str, Op]
    uses: Mapping[str, int]

    def type(self, name: str) -> TensorType:
        """Type of a value defined before."""
        return next(value.type for value in self.defs[name].results if value.name == name)


Rewrite = Op | str | None
Rule = Callable[[Op, Context], Rewrite]
"""A new op, the name of the value that the op merely repeats, or None to leave it."""


def axis_of(op: Op, name: str, rank: int, default: int = 0) -> int:
    """The axis that an attribute names, counted from the front."""
    value = op.attr(name)
    axis = int(value) if isinstance(value, Expr) else default
    return axis % rank if rank else 0
