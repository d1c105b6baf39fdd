"""A traced FX graph as a graph of the IR: values instead of memory, our symbols instead of PyTorch's."""

# pyright: reportPrivateUsage=false
# PyTorch and vLLM have no public way to do this.
from __future__ import annotations

import operator
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import sympy
import torch
from torch.fx import Node

from dooly.capture.memory import Place
from dooly.capture.opaque_modules import DTYPES
from dooly.capture.symbols import Reader
from dooly.errors import CaptureError
from dooly.ir import Expr, Free, Op, TensorType, Value, attributes

__all__ = ["COMPILED", "Converter"]

_IGNORED = frozenset(("device", "layout", "pin_memory", "memory_format", "non_blocking", "cudnn_enable"))
_ALLOCATIONS = frozenset(("aten.empty", "aten.empty_like", "aten.new_empty", "aten.empty_strided"))
COMPILED = ("_C.", "vllm.")
"""Dialects of the engine's kernels."""

_COLLECTIVES = frozenset(("vllm.all_reduce", "vllm.all_gather", "vllm.reduce_scatter"))


class Converter:
    """Turns nodes into operations one by one; ``ops``, ``free``, ``outputs`` and ``captured`` hold the result.

    Nodes that compute become operations.  Nodes that only pick, alias, allocate or compute sizes become ``free``
    entries.  Writes in place become results: later readers of that memory read the new value.

    Args:
        reader: reads PyTorch's sizes.
        weights: parameter names by the name of the node that creates them.
        parameters: those of them that are parameters; buffers that nothing reads are dropped.
        ranks: ranks of a collective, by the name of its group.
        schemes: how weights are quantized, by the path of their layer.
    """

    def __init__(
        self,
        reader: Reader,
        weights: Mapping[str, str],
        parameters: frozenset[str],
        ranks: Callable[[str], Expr],
        schemes: Mapping[str, str] | None = None,
    ) -> None:
        self.ops: list[Op] = []
        self.free: list[Free] = []
        self.outputs: tuple[str, ...] = ()
        self.captured = 0
        self._reader, self._weights, self._parameters, self._ranks = reader, weights, parameters, ranks
        self._schemes = schemes or {}
        self._places: dict[Node, Place | list[Place]] = {}
        self._taken: Counter[str] = Counter()
        self._clobbering: dict[str, int] = {}

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
            if name not in self._parameters and all(user.name in self._weights for user in node.users):
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
        call = _Call(node, index, _target(node))
        for argument, value in _arguments(node):
            tensors = [item for item in _flat(value) if isinstance(item, Node) and item in self._places]
            if not tensors:
                self._attribute(call, argument, value)
            for tensor in tensors:
                self._operand(call, argument, tensor)
        if call.viewed is not None and call.viewed.value is None and not call.writes:
            self._places[node] = Place(None, call.viewed)
            self._free("allocation", index)
            return
        if call.target in _COLLECTIVES:
            along = {"dim": call.attrs["dim"]} if "dim" in call.attrs else {}
            group = str(call.attrs["group_name"]).partition(":")[0]
            call.attrs = {"group": group, "ranks": self._ranks(group), **along}
        elif call.target.startswith(COMPILED) and (scheme := self._schemes.get(node.meta.get("module_path", ""))):
            call.attrs["scheme"] = scheme
        self._emit(call)

    def _operand(self, call: _Call, argument: Any, tensor: Node) -> None:
        """A tensor argument: read, viewed or written.  Memory that nothing has written yet is only written."""
        place, alias = self._place(tensor), argument.alias_info
        if alias is not None and alias.is_write:
            call.writes.append(_Write(place, tensor, _alias_name(alias)))
        elif alias is not None:
            call.viewed = place
        if alias is None or place.value is not None:
            self._put_in(place, call, self._type(tensor.meta["val"]))
            call.operands.append(place.read(f"{call.target} at {call.node.meta.get('module_path')}"))

    def _put_in(self, place: Place, call: _Call, whole: TensorType) -> None:
        """Give a place of which slices were written in place its value: what it held, if anything, and each slice."""
        for view in place.written:
            made = next((op for op in self.ops if op.results[0].name == view.made), None)
            if made is None or made.target != "aten.slice" or made.attr("step") is not None:
                return
            name, attrs = self._name("insert"), tuple(item for item in made.attrs if item[0] in ("dim", "start"))
            operands = (*((place.value,) if place.value else ()), view.read(call.target))
            self.ops.append(Op("insert", operands, (Value(name, whole),), attrs, path=made.path, source=made.source))
            place.value = name
        place.written = []

    def _emit(self, call: _Call) -> None:
        """The operation: results are what it returns, then what it writes beside that."""
        produced = [item for item in _flat(call.node.meta.get("val")) if isinstance(item, torch.Tensor)]
        aliases = [_alias_name(result.alias_info) for result in cast(Any, call.node.target)._schema.returns]
        returned = aliases if len(aliases) == len(produced) else [None] * len(produced)
        beside = [write for write in call.writes if write.alias is None or write.alias not in returned]
        tensors = [*produced, *(write.tensor.meta["val"] for write in beside)]
        base = self._name(call.target.rpartition(".")[2])
        names = [f"{base}.{position}" for position in range(len(tensors))]
        if len(produced) == 1 or len(tensors) == 1:
            names[0] = base
        if produced and beside:
            self._clobbering[names[0]] = len(produced)
        places = [
            self._result(call, position, name, alias) for position, (name, alias) in enumerate(zip(names, returned))
        ]
        for write, name in zip(beside, names[len(produced) :]):
            write.place.write(name)
        many = isinstance(call.node.meta.get("val"), list | tuple)
        self._places[call.node] = places if many or not places else places[0]
        results = tuple(Value(name, self._type(tensor)) for name, tensor in zip(names, tensors))
        path, source = (call.node.meta.get(key, "") for key in ("module_path", "source"))
        operands, attrs = tuple(call.operands), attributes(**call.attrs)
        self.ops.append(Op(call.target, operands, results, attrs, path=path, source=source, nodes=(call.index,)))

    def _result(self, call: _Call, position: int, name: str, alias: str | None) -> Place:
        """Return where a returned tensor lives: in memory that the operation wrote, in a view, or in its own."""
        for write in call.writes:
            if alias is not None and write.alias == alias:
                write.place.write(name)
                return write.place
        many = isinstance(call.node.meta.get("val"), list | tuple)
        return Place(name, call.viewed, position if many else None)

    def _attribute(self, call: _Call, argument: Any, value: Any) -> None:
        name = argument.name
        if name in _IGNORED or (value is None and "Tensor" in str(argument.type)):
            return
        symbolic = call.node.meta.get("sizes", {}).get(name)
        read = self._constant(value if symbolic is None else symbolic)
        if argument.has_default_value() and read == self._constant(argument.default_value):
            return
        call.attrs[name] = read

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
        """Return a name that no value has yet; a weight may be called as another one's number two would be."""
        name = base
        while name in self._taken:
            self._taken[base] += 1
            name = f"{base}_{self._taken[base]}"
        self._taken[name] += 1
        return name

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
        """Drop results that an operation clobbers beside what it returns, unless something reads them."""
        read = {name for op in self.ops for name in op.operands} | set(self.outputs)
        for position, op in enumerate(self.ops):
            kept = self._clobbering.get(op.name, len(op.results))
            results = (*op.results[:kept], *(value for value in op.results[kept:] if value.name in read))
            self.ops[position] = replace(op, results=results)


@dataclass(frozen=True)
class _Write:
    """A tensor argument that an operation writes; ``alias`` is its name in the schema."""

    place: Place
    tensor: Node
    alias: str | None


@dataclass
class _Call:
    """A node on its way to becoming an operation."""

    node: Node
    index: int
    target: str
    operands: list[str] = field(default_factory=list[str])
    attrs: dict[str, object] = field(default_factory=dict[str, object])
    writes: list[_Write] = field(default_factory=list[_Write])
    viewed: Place | None = None


def _target(node: Node) -> str:
    """``dialect.name`` without the overload."""
    overload = cast(torch._ops.OpOverload, node.target)
    return f"{overload.namespace}.{overload._schema.name.split('::')[1]}"


def _arguments(node: Node) -> list[tuple[Any, Any]]:
    """Arguments of the schema with the values passed."""
    schema = cast(torch._ops.OpOverload, node.target)._schema.arguments
    given = {**{argument.name: value for argument, value in zip(schema, node.args)}, **node.kwargs}
    return [(argument, given[argument.name]) for argument in schema if argument.name in given]


def _alias_name(alias: Any) -> str | None:
    return next(iter(sorted(alias.before_set)), None) if alias is not None else None


def _flat(value: Any) -> list[Any]:
    if isinstance(value, list | tuple):
        return [item for part in value for item in _flat(part)]
    return [value]
