"""Graphs of one or more models together with the table of operations that they need."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from dooly.ir.graph import Graph
from dooly.ir.operation import Operation
from dooly.ir.printer import format_graph, format_operation

__all__ = ["Program"]


@dataclass(frozen=True)
class Program:
    """What passes transform.  Before ``lower`` there are only graphs."""

    graphs: tuple[Graph, ...] = ()
    operations: tuple[Operation, ...] = ()

    def __str__(self) -> str:
        """The text that ``parse_program`` reads back."""
        graphs = "\n\n".join(map(format_graph, self.graphs))
        operations = "\n".join(map(format_operation, self.operations))
        return "\n\n".join(part for part in (graphs, operations) if part) + "\n"

    def map_graphs(self, rewrite: Callable[[Graph], Graph]) -> "Program":
        """The program with each graph rewritten."""
        return replace(self, graphs=tuple(map(rewrite, self.graphs)))

    def for_model(self, model: str) -> tuple[Operation, ...]:
        """Operations that one model uses, with its uses only."""
        mine = (replace(op, uses=tuple(use for use in op.uses if use.model == model)) for op in self.operations)
        return tuple(op for op in mine if op.uses)
