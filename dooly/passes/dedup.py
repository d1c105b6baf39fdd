"""dedup: one entry per distinct piece of work, over all layers and all models."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import networkx as nx

from dooly.errors import PassError
from dooly.ir import Operation, Program, Use, format_type
from dooly.passes.facts import LOWERED, Fact
from dooly.passes.flow import flow_of, isomorphic

__all__ = ["Dedup"]


@dataclass(frozen=True)
class Dedup:
    """Merge operations whose text is equal, and regions whose data flow is isomorphic; counts and uses add up.

    The result is sorted by kind, target and types, so that the order in which models are given does not show.
    Needs ``lower``.  Keeps graphs and the total count of every model.  Idempotent.
    """

    name: ClassVar[str] = "dedup"
    requires: ClassVar[tuple[Fact, ...]] = (LOWERED,)
    establishes: ClassVar[tuple[Fact, ...]] = (LOWERED,)

    def run(self, program: Program, /) -> Program:
        by_signature: dict[str, list[Operation]] = {}
        for operation in sorted(program.operations, key=_order):
            by_signature.setdefault(operation.signature, []).append(operation)
        merged = [_merge(same) for same in by_signature.values()]
        return replace(program, operations=tuple(_merge_isomorphic(merged)))


def _order(operation: Operation) -> tuple[str, str, str, str]:
    types = ", ".join(map(format_type, operation.operands))
    return operation.kind.value, operation.target, types, operation.signature


def _merge(same: Sequence[Operation]) -> Operation:
    """The first of them with the uses of all; uses at one place of one model add up."""
    counts: dict[tuple[str, str, tuple[tuple[str, str], ...]], int] = {}
    for use in (use for operation in same for use in operation.uses):
        key = (use.model, use.path, use.bind)
        counts[key] = counts.get(key, 0) + use.count
    return replace(same[0], uses=tuple(Use(model, path, count, bind) for (model, path, bind), count in counts.items()))


def _merge_isomorphic(operations: Sequence[Operation]) -> list[Operation]:
    kept: list[Operation] = []
    by_labels: dict[tuple[str, ...], list[tuple[nx.DiGraph[str], int]]] = {}
    for operation in operations:
        if operation.body is None:
            kept.append(operation)
            continue
        flow = flow_of(operation.body)
        candidates = by_labels.setdefault(tuple(sorted(str(flow.nodes[node]["label"]) for node in flow)), [])
        twin = next((index for other, index in candidates if isomorphic(flow, other)), None)
        if twin is None:
            candidates.append((flow, len(kept)))
            kept.append(operation)
        else:
            kept[twin] = _merge([kept[twin], operation])
    return kept
