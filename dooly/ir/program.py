"""Graphs of one or more models together with the table of operations that they need."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from dooly.errors import VerifyError
from dooly.ir.graph import Graph
from dooly.ir.operation import Operation
from dooly.ir.printer import format_graph, format_operation

__all__ = ["Program"]


@dataclass(frozen=True)
class Program:
    """The value that passes transform.  Before ``lower`` there are only graphs."""

    graphs: tuple[Graph, ...] = ()
    operations: tuple[Operation, ...] = ()

    def __str__(self) -> str:
        """The text that ``parse_program`` reads back."""
        graphs = "\n\n".join(map(format_graph, self.graphs))
        operations = "\n".join(map(format_operation, self.operations))
        return "\n\n".join(part for part in (graphs, operations) if part) + "\n"

    @classmethod
    def joined(cls, parts: Iterable["Program"]) -> "Program":
        """All graphs and tables in one program; the same graph or table twice is one.

        Raises:
            VerifyError: two different tables count one model.
        """
        parts = list(parts)
        graphs = dict.fromkeys(graph for part in parts for graph in part.graphs)
        tables = dict.fromkeys(part.operations for part in parts)
        models = Counter(model for table in tables for model in {use.model for op in table for use in op.uses})
        twice = sorted(model for model, count in models.items() if count > 1)
        if twice:
            raise VerifyError(f"two tables count {', '.join(twice)}; give each model once")
        return cls(tuple(graphs), tuple(operation for table in tables for operation in table))

    def map_graphs(self, rewrite: Callable[[Graph], Graph]) -> "Program":
        """The program with each graph rewritten."""
        return replace(self, graphs=tuple(map(rewrite, self.graphs)))

    def for_model(self, model: str) -> tuple[Operation, ...]:
        """Operations that one model uses, with its uses only."""
        mine = (replace(op, uses=tuple(use for use in op.uses if use.model == model)) for op in self.operations)
        return tuple(op for op in mine if op.uses)
