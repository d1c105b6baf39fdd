"""A traced FX graph as a graph of the IR: values instead of memory, our symbols instead of PyTorch's."""

# pyright: reportPrivateUsage=false
# PyTorch and vLLM have no public way to do this.
from __future__ import annotations

import operator
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, cast

import sympy
import torch
from torch.fx import Node

from dooly.capture.owners import DTYPES
from dooly.capture.places import Place
from dooly.capture.symbols import Reader
from dooly.errors import CaptureError
from dooly.ir import Expr, Free, Op, TensorType, Value, attributes

__all__ = ["Converter"]

_IGNORED = frozenset(("device", "layout", "pin_memory", "memory_format", "non_blocking"))
_ALLOCATIONS = frozenset(("aten.empty", "aten.empty_like", "aten.new_empty", "aten.empty_strided"))
_COLLECTIVES = frozenset(("vllm.all_reduce", "vllm.all_gather", "vllm.reduce_scatter"))


class Converter:
    """Turns nodes into operations one by one; ``ops``, ``free``, ``outputs`` and ``captured`` hold the result.

    Nodes that compute become operations.  Nodes that only pick, alias, allocate or compute sizes become ``free``
    entries.  Writes in place become results: later readers of that memory read the new value.

    Args:
        reader: reads PyTorch's sizes.
        weights: parameter names by the name of the node that creates them.
        parameters: those of them that are parameters; buffers that nothing reads are dropped.
        ranks: ranks of a collective.
    """

    def __init__(self, reader: Reader, weights: Mapping[str, str], parameters: frozenset[str], ranks: Expr) -> None:
        self.ops: list[Op] = []
        self.free: list[Free] = []
        self.outputs: tuple[str, ...] = ()
        self.captured = 0
        self._reader, self._weights, self._parameters, self._ranks = reader, weights, parameters, ranks
        self._places: dict[Node, Place | list[Place]] = {}
        self._taken: Counter[str] = Counter()
        self._writes: dict[str, int] = {}

    def convert(self, graph: torch.fx.Graph, inputs: Sequence[str]) -> None:
        """Convert a whole graph whose first placeholders are the tensors ``inputs``."""
        names = iter(inputs)
        for node in graph.nodes:
            if node.op == "placeholder":
                if isinstance(node.meta["val"], torch.Tensor):
                    self._source("input", node, next(names), ())
            elif node.op == "output":
                self.outputs = tuple(self._place(item).read("the output") for item in _flat(node.args[0]))
            elif node.op == "call_function":
                self._call(node, self.captured)
                self.captured += 1
            else:
                raise CaptureError(
                    f"the traced graph holds a {node.op} node {node.target!r}, which has no meaning here"
                )
        self._drop_unread_writes()

    def _call(self, node: Node, index: int) -> None:
        value = node.meta.get("val")
        if node.name in self._weights:
            name = self._weights[node.name]
            if name not in self._parameters and not node.users:
                self._free("constant", index)
            else:
                self._source("weight", node, name, (index,))
        elif node.target is operator.getitem:
            source, position = cast("tuple[Node, int]", node.args)
            self._places[node] = cast("list[Place]", self._places[source])[position]
            self._free("view", index)
        elif not isinstance(node.target, torch._ops.OpOverload) or isinstance(
            value, torch.SymInt | torch.SymBool | torch.SymFloat | int | bool
        ):
            self._free("scalar", index)
        elif _target(node) in _ALLOCATIONS:
            self._places[node] = Place(None)
            self._free("allocation", index)
        elif _target(node) == "aten.detach":
            self._places[node] = self._place(node.args[0])
            self._free("view", index)
        else:
            self._operation(node, index)

    def _operation(self, node: Node, index: int) -> None:
        target, overload = _target(node), cast(torch._ops.OpOverload, node.target)
        operands: list[str] = []
        attrs: dict[str, object] = {}
        written: list[tuple[Place, Node, str | None]] = []
        viewed: Place | None = None
        for argument, value in _arguments(node, overload):
            alias = argument.alias_info
            tensors = [item for item in _flat(value) if isinstance(item, Node) and item in self._places]
            if not tensors:
                self._attribute(attrs, node, argument, value)
                continue
            for tensor in tensors:
                place = self._place(tensor)
                writes = alias is not None and alias.is_write
                if writes:
                    written.append((place, tensor, _alias_name(alias)))
                elif alias is not None:
                    viewed = place
                if place.value is not None or not (writes or alias is not None):
                    operands.append(place.read(f"{target} at {node.meta.get('module_path')}"))
        if viewed is not None and viewed.value is None and not written:
            self._places[node] = Place(None, viewed)
            self._free("allocation", index)
            return
        if target in _COLLECTIVES:
            attrs = {"group": str(attrs["group_name"]).partition(":")[0], "ranks": self._ranks, "dim": attrs.get("dim")}
            attrs = {name: value for name, value in attrs.items() if value is not None}
        self._emit(node, index, target, operands, attrs, written, viewed)

    def _emit(
        self,
        node: Node,
        index: int,
        target: str,
        operands: list[str],
        attrs: dict[str, object],
        written: list[tuple[Place, Node, str | None]],
        viewed: Place | None,
    ) -> None:
        produced = [item for item in _flat(node.meta.get("val")) if isinstance(item, torch.Tensor)]
        aliases = [_alias_name(result.alias_info) for result in cast(Any, node.target)._schema.returns]
        returned = [alias if len(aliases) == len(produced) else None for alias in aliases] if aliases else []
        extra = [entry for entry in written if entry[2] not in returned or entry[2] is None]
        tensors = [*produced, *(entry[1].meta["val"] for entry in extra)]
        base = self._name(target.rpartition(".")[2])
        names = [f"{base}.{position}" for position in range(len(tensors))]
        if len(produced) == 1 or len(tensors) == 1:
            names[0] = base
        results = tuple(Value(name, self._type(tensor)) for name, tensor in zip(names, tensors))
        if len(extra) and len(produced):
            self._writes[base] = len(produced)
        new = {alias: name for alias, name in zip(returned, names) if alias is not None}
        for place, _, alias in written:
            if alias in new:
                place.write(new[alias])
        for (place, _, _), name in zip(extra, names[len(produced) :]):
            place.write(name)
        self._places[node] = self._results(node, names[: len(produced)], written, returned, viewed)
        self.ops.append(
            Op(
                target,
                tuple(operands),
                results,
                attributes(**attrs),
                path=node.meta.get("module_path", ""),
                source=node.meta.get("source", ""),
                nodes=(index,),
            )
        )

    def _results(
        self,
        node: Node,
        names: list[str],
        written: list[tuple[Place, Node, str | None]],
        returned: list[str | None],
        viewed: Place | None,
    ) -> Place | list[Place]:
        """Places of what a node returns: new memory, a view, or memory that it wrote."""
        many = isinstance(node.meta.get("val"), list | tuple)
        places: list[Place] = []
        for position, name in enumerate(names):
            alias = returned[position] if position < len(returned) else None
            known = next((place for place, _, other in written if alias is not None and other == alias), None)
            places.append(known or Place(name, viewed, position if many else None))
        return places if many else (places[0] if places else [])

    def _attribute(self, attrs: dict[str, object], node: Node, argument: Any, value: Any) -> None:
        name = argument.name
        if name in _IGNORED or (value is None and "Tensor" in str(argument.type)):
            return
        symbolic = node.meta.get("sizes", {}).get(name)
        read = self._constant(value if symbolic is None else symbolic)
        if argument.has_default_value() and read == self._constant(argument.default_value):
            return
        attrs[name] = read

    def _constant(self, value: Any) -> Any:
        if isinstance(value, Node):
            return self._constant(value.meta["val"])
        if isinstance(value, torch.dtype):
            return DTYPES[value]
        if isinstance(value, list | tuple):
            return tuple(self._constant(item) for item in value)
        if isinstance(value, torch.SymInt):
            return self._reader.size(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return None if value == sys.maxsize else sympy.Integer(value)
        if value is None or isinstance(value, bool | float | str):
            return value
        return str(getattr(value, "value", value))  # the engine wraps layer names

    def _source(self, target: str, node: Node, name: str, nodes: tuple[int, ...]) -> None:
        words = [word for word in name.split(".") if not word.isdigit()]
        result = Value(self._name("_".join(words[-2:])), self._type(node.meta["val"]))
        self.ops.append(Op(target, (), (result,), path=name, nodes=nodes))
        self._places[node] = Place(result.name)

    def _name(self, base: str) -> str:
        self._taken[base] += 1
        return base if self._taken[base] == 1 else f"{base}_{self._taken[base]}"

    def _place(self, node: Any) -> Place:
        place = self._places[node]
        if isinstance(place, list):
            raise CaptureError(f"{node} is several tensors where one was expected")
        return place

    def _type(self, tensor: torch.Tensor) -> TensorType:
        return TensorType(DTYPES[tensor.dtype], tuple(self._reader.size(dim) for dim in tensor.shape))

    def _free(self, reason: str, index: int) -> None:
        self.free.append(Free(reason, (index,)))

    def _drop_unread_writes(self) -> None:
        """What an operation clobbers beside what it returns stays a result only if something reads it."""
        read = {name for op in self.ops for name in op.operands} | set(self.outputs)
        for position, op in enumerate(self.ops):
            base = op.name.removesuffix(".0")
            if base in self._writes:
                kept = self._writes[base]
                results = (*op.results[:kept], *(value for value in op.results[kept:] if value.name in read))
                self.ops[position] = Op(
                    op.target, op.operands, results, op.attrs, op.count, op.path, op.source, op.nodes, op.body
                )


def _target(node: Node) -> str:
    """``dialect.name`` without the overload."""
    overload = cast(torch._ops.OpOverload, node.target)
    return f"{overload.namespace}.{overload._schema.name.split('::')[1]}"


def _arguments(node: Node, overload: torch._ops.OpOverload) -> list[tuple[Any, Any]]:
    """Arguments of the schema with the values passed."""
    schema = overload._schema.arguments
    given = {**{argument.name: value for argument, value in zip(schema, node.args)}, **node.kwargs}
    return [(argument, given[argument.name]) for argument in schema if argument.name in given]


def _alias_name(alias: Any) -> str | None:
    return next(iter(sorted(alias.before_set)), None) if alias is not None else None


def _flat(value: Any) -> list[Any]:
    if isinstance(value, list | tuple):
        return [item for part in value for item in _flat(part)]
    return [value]
