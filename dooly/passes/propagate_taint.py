"""propagate-taint: say of every dimension whether the configuration or the request set it."""

from dataclasses import dataclass, replace
from typing import ClassVar

from dooly.errors import PassError
from dooly.ir import Graph, Op, Origin, Program, Value, format_expr, origin_of
from dooly.passes.facts import ORIGINS, Fact

__all__ = ["PropagateTaint", "with_origins"]


@dataclass(frozen=True)
class PropagateTaint:
    """Attach to each dimension of each value the join of the origins of its symbols.

    Dimensions are expressions over declared symbols, so their origin needs no dataflow and cannot collide.
    A symbol that the header does not declare has an unknown origin: an error, never a constant.
    Needs nothing.  Keeps everything else.  Idempotent.

    >>> from dooly.ir import parse_program
    >>> text = 'graph "g" { config H = 4 request T  captured 0 %x = input() : f32[T, 2*H, 3] return %x }'
    >>> print(PropagateTaint().run(parse_program(text)).graphs[0].ops[0].results[0].origins)
    (<Origin.REQUEST: 'request'>, <Origin.CONFIG: 'config'>, <Origin.CONSTANT: 'constant'>)
    """

    name: ClassVar[str] = "propagate-taint"
    requires: ClassVar[tuple[Fact, ...]] = ()
    establishes: ClassVar[tuple[Fact, ...]] = (ORIGINS,)

    def run(self, program: Program, /) -> Program:
        return program.map_graphs(with_origins)


def with_origins(graph: Graph) -> Graph:
    """The graph with the origins of every dimension.

    Raises:
        PassError: a dimension has an unknown origin.
    """
    config, request = frozenset(graph.config_values), frozenset(graph.request)

    def value(op: Op, each: Value) -> Value:
        origins: list[Origin] = []
        for dim in each.type.shape:
            origin = origin_of(dim, config, request)
            if origin is None:
                raise PassError(f"unknown origin of {format_expr(dim)} in %{each.name} at {op.path or 'no module'}")
            origins.append(origin)
        return replace(each, origins=tuple(origins))

    return replace(
        graph, ops=tuple(replace(op, results=tuple(value(op, each) for each in op.results)) for op in graph.ops)
    )
