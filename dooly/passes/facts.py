"""Facts of a program that one pass establishes and others need; the runner checks them before and after each pass."""

from collections.abc import Callable
from dataclasses import dataclass

from dooly.ir import Kind, Program, kind_of

__all__ = ["CANONICAL", "EXPANDED", "FUSED", "LOWERED", "ORIGINS", "Fact"]


@dataclass(frozen=True)
class Fact:
    """A property of a program.

    Attributes:
        provider: name of the pass that establishes the property.
        exception: returns what in a program contradicts the property, in words, or None.
    """

    provider: str
    exception: Callable[[Program], str | None]


_REWRITTEN = ("aten.t", "aten.linear", "aten.detach", "aten.embedding")
"""Targets that ``canonicalize`` always rewrites."""


def _not_expanded(program: Program) -> str | None:
    owned = (owner.path for graph in program.graphs for owner in graph.owners)
    return next((f"the layer {layer!r} still has an owner" for layer in owned), None)


def _not_canonical(program: Program) -> str | None:
    ops = (op for graph in program.graphs for op in graph.ops if op.target in _REWRITTEN)
    return next((f"%{op.name} is still {op.target}" for op in ops), None)


def _not_fused(program: Program) -> str | None:
    ops = (op for graph in program.graphs for op in graph.work() if kind_of(op.target) is Kind.MEMORY)
    return next((f"%{op.name} ({op.target}) is in no region" for op in ops), None)


def _without_origins(program: Program) -> str | None:
    ops = (op for graph in program.graphs for op in graph.work() if any(value.origins is None for value in op.results))
    return next((f"%{op.name} has no origins" for op in ops), None)


def _not_lowered(program: Program) -> str | None:
    names = (graph.name for graph in program.graphs if graph.work() and not program.for_model(graph.name))
    return next((f"there are no operations of {name!r} yet" for name in names), None)


ORIGINS = Fact("propagate-taint", _without_origins)
"""The configuration or the request is known to set each dimension of each operation that costs something."""
EXPANDED = Fact("expand-opaque", _not_expanded)
"""Opaque operations have been replaced by the work that their owners describe."""
CANONICAL = Fact("canonicalize", _not_canonical)
"""Equal work is spelled alike."""
FUSED = Fact("fuse-regions", _not_fused)
"""Each memory-bound operation is part of a region."""
LOWERED = Fact("lower", _not_lowered)
"""Each graph that does work has its operations in the table."""
