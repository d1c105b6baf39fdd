"""expand-opaque: say what the engine's opaque operations do, from the modules that own them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from dooly.errors import PassError
from dooly.ir import Attribute, Graph, Op, Owner, Program, Value, attributes, well_formed
from dooly.passes.facts import EXPANDED, Fact
from dooly.passes.propagate_taint import with_origins

__all__ = ["ExpandOpaque"]

_CACHE_UPDATES = ("vllm.unified_kv_cache_update", "vllm.unified_mla_kv_cache_update")
_ROUTE = "dooly.route"


@dataclass(frozen=True)
class ExpandOpaque:
    """Turn each operation that names a layer into the work that its owner describes, and drop the owners.

    - Attention, with the cache update before it, becomes one stateful ``attention`` with heads, window and backend;
      latent attention becomes ``mla_attention``, which also reads the up-projection's weight.
    - A recurrent mixer becomes ``mamba2_mixer`` or ``gated_delta_rule`` with the weights that its kernels read, Mamba-1
      ``causal_conv1d`` and ``selective_scan``.
    - The experts of a mixture become ``moe`` over hidden states, router logits and the experts' weights, with the
      choice of experts inside; where a collective stands between the two, ``moe_route`` chooses and ``moe`` reads
      weights and ids.

    Needs owners from capture.  Keeps shapes, taint, counts and module paths.  Idempotent.
    """

    name: ClassVar[str] = "expand-opaque"
    requires: ClassVar[tuple[Fact, ...]] = ()
    establishes: ClassVar[tuple[Fact, ...]] = (EXPANDED,)

    def run(self, program: Program, /) -> Program:
        return program.map_graphs(_graph)


@dataclass(frozen=True)
class _Context:
    """Facts for an expansion: owners by layer name, weights by path, operations by the values they define."""

    owners: Mapping[str, Owner]
    weights: Mapping[str, Value]
    defs: Mapping[str, Op]

    def owner(self, op: Op) -> tuple[dict[str, Attribute], dict[str, tuple[str, ...]]]:
        """Return what the owner says about the operation, and the weights that it names as values.

        Raises:
            PassError: nobody owns the layer, or a weight of its is not in the graph.
        """
        layer = op.attr("layer_name")
        owner = self.owners.get(layer) if isinstance(layer, str) else None
        if owner is None:
            raise PassError(f"%{op.name} = {op.target}: no owner declares the layer {layer!r}")
        attrs = dict(owner.attrs)
        named = {key: attrs.pop(key, None) for key in ("weights", "routing_weights")}
        return attrs, {key: tuple(self._weight(op, path) for path in _paths(value)) for key, value in named.items()}

    def _weight(self, op: Op, path: str) -> str:
        if path not in self.weights:
            raise PassError(f"%{op.name} = {op.target}: its owner names the weight {path!r}, which is not in the graph")
        return self.weights[path].name


def _paths(value: Attribute) -> tuple[str, ...]:
    return tuple(path for path in value if isinstance(path, str)) if isinstance(value, tuple) else ()


def _graph(graph: Graph) -> Graph:
    context = _Context(
        {owner.path: owner for owner in graph.owners},
        {op.path: op.results[0] for op in graph.ops if op.target == "weight"},
        {value.name: op for op in graph.ops for value in op.results},
    )
    expanded = [_expanded(op, context) for op in graph.ops]
    taken = {node for op in expanded if op.target in ("attention", "mla_attention", "moe") for node in op.nodes}
    kept = [op for op in expanded if op.target not in _ABSORBED or not taken.issuperset(op.nodes)]
    return with_origins(replace(graph, ops=tuple(kept), owners=()))


def _expanded(op: Op, context: _Context) -> Op:
    if op.target not in _EXPAND:
        return op
    with well_formed(op.target, op.place):
        return _EXPAND[op.target](op, context)


def _stateful(op: Op, context: _Context) -> Op:
    """Attention takes the cache update with it: its result only orders the two."""
    attrs, weights = context.owner(op)
    update = next((context.defs[name] for name in op.operands if context.defs[name].target in _CACHE_UPDATES), None)
    operands = tuple(name for name in op.operands if update is None or name != update.name)
    return replace(
        op,
        target=_TARGETS[op.target],
        operands=(*operands, *weights["weights"]),
        attrs=attributes(**attrs),
        nodes=op.nodes if update is None else (*update.nodes, *op.nodes),
    )


def _mamba(op: Op, context: _Context) -> Op:
    """The two kernels of a Mamba-1 mixer have one owner, of which each needs its own part."""
    attrs, _ = context.owner(op)
    kept = {name: attrs[name] for name in _MAMBA[op.target] if name in attrs}
    return replace(op, target=op.target.removeprefix("dooly."), attrs=attributes(**kept))


def _experts(op: Op, context: _Context) -> Op:
    """Routing that feeds the experts directly is part of their kernel."""
    attrs, weights = context.owner(op)
    route = context.defs[op.operands[1]]
    operands, nodes, routing = op.operands, op.nodes, weights["routing_weights"]
    if route.target == _ROUTE:
        operands, nodes = (op.operands[0], route.operands[0]), (*route.nodes, *op.nodes)
    elif len(operands) > 2:
        routing = ()
    operands = (*operands, *weights["weights"], *routing)
    return replace(op, target="moe", operands=operands, attrs=attributes(**attrs), nodes=nodes)


def _route(op: Op, context: _Context) -> Op:
    """Kept only where a collective reads it."""
    attrs, weights = context.owner(op)
    if any(op.name in each.operands and each.target == "dooly.experts" for each in context.defs.values()):
        return op
    kept = {name: attrs[name] for name in _ROUTING if name in attrs}
    operands = (*op.operands, *weights["routing_weights"])
    return replace(op, target="moe_route", operands=operands, attrs=attributes(**kept))


_ROUTING = ("correction_bias", "experts", "groups", "renormalize", "scaling", "scoring", "top_groups", "top_k")
_ABSORBED = (*_CACHE_UPDATES, _ROUTE)
_TARGETS = {
    "vllm.unified_attention_with_output": "attention",
    "vllm.unified_mla_attention_with_output": "mla_attention",
    "vllm.mamba_mixer2": "mamba2_mixer",
    "vllm.cpu_gdn_attention_core": "gated_delta_rule",
    "vllm.qwen_gdn_attention_core": "gated_delta_rule",
}
_MAMBA = {
    "dooly.causal_conv1d": ("conv_dtype", "conv_kernel"),
    "dooly.selective_scan": ("state_dtype", "state_size"),
}
_EXPAND: Mapping[str, Callable[[Op, _Context], Op]] = {
    **dict.fromkeys(_TARGETS, _stateful),
    **dict.fromkeys(_MAMBA, _mamba),
    _ROUTE: _route,
    "dooly.experts": _experts,
}
