"""expand-opaque: say what the engine's opaque operations do, from the modules that own them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from dooly.errors import PassError
from dooly.ir import Graph, Op, Owner, Program, Value, attributes
from dooly.passes.propagate_taint import with_origins

__all__ = ["ExpandOpaque"]

_CACHE_UPDATE = "vllm.unified_kv_cache_update"


@dataclass(frozen=True)
class ExpandOpaque:
    """Turn each operation that names a layer into the work that its owner describes, and drop the owners.

    - Attention, with the cache update before it, becomes one stateful ``attention`` with heads, window and backend.
    - A mixture of experts becomes ``moe`` over hidden states, router logits and the two expert weights.

    What an owner hides beyond that (a router or shared experts inside) leaves the operation as it is: unknown, and
    reported by ``cover``.  Needs owners from capture.  Keeps shapes, taint, counts and module paths.  Idempotent.
    """

    name: ClassVar[str] = "expand-opaque"

    def run(self, program: Program, /) -> Program:
        return program.map_graphs(_graph)


def _graph(graph: Graph) -> Graph:
    owners = {owner.path: owner for owner in graph.owners}
    weights = {op.path: op.results[0] for op in graph.ops if op.target == "weight"}
    updates = {op.name: op for op in graph.ops if op.target == _CACHE_UPDATE}
    ops: list[Op] = []
    absorbed: set[str] = set()
    for op in graph.ops:
        expand = _EXPAND.get(op.target)
        if expand is None:
            ops.append(op)
            continue
        layer = op.attr("layer_name")
        owner = owners.get(layer) if isinstance(layer, str) else None
        if owner is None:
            raise PassError(f"%{op.name} = {op.target}: no owner declares the layer {layer!r}")
        update = next((updates[name] for name in op.operands if name in updates), None)
        if update is not None:
            absorbed.add(update.name)
            operands = tuple(name for name in op.operands if name != update.name)
            op = replace(op, operands=operands, nodes=(*update.nodes, *op.nodes))
        ops.append(expand(op, owner, weights))
    left = {op.attr("layer_name") for op in ops if op.target in _EXPAND}
    return with_origins(
        replace(
            graph,
            ops=tuple(op for op in ops if op.name not in absorbed),
            owners=tuple(owner for owner in graph.owners if owner.path in left),
        )
    )


def _attention(op: Op, owner: Owner, weights: Mapping[str, Value]) -> Op:
    return replace(op, target="attention", attrs=owner.attrs)


def _moe(op: Op, owner: Owner, weights: Mapping[str, Value]) -> Op:
    described = dict(owner.attrs)
    if described.pop("gate_inside", False) or described.pop("shared_inside", False):
        return op
    described.pop("shared_inside", None)
    names = [described.pop(key, None) for key in ("w13", "w2")]
    values = [weights[name].name for name in names if isinstance(name, str) and name in weights]
    if len(values) != 2 or len(op.operands) != 2:
        raise PassError(f"%{op.name} = {op.target}: expected two operands and the weights {names}, found {op.operands}")
    return replace(op, target="moe", operands=(*op.operands, *values), attrs=attributes(**described))


_EXPAND: Mapping[str, Callable[[Op, Owner, Mapping[str, Value]], Op]] = {
    "vllm.unified_attention_with_output": _attention,
    "vllm.moe_forward": _moe,
    "vllm.moe_forward_shared": _moe,
}
