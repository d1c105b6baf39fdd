"""The lowered form of a captured graph, at the numbers of a witness beside the calls that it stands for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from math import prod

from dooly.ir import Graph, Kind, Op, Program, TensorType, Value, evaluate, kind_of
from dooly.ir.opset import Call as Signature
from dooly.ir.opset import spec_of
from dooly.passes import PIPELINE, Dedup, FuseRegions, Lower, run
from dooly.provenance.compare import Comparison
from dooly.provenance.observed import Call

__all__ = ["compare_lowered", "fused"]


def fused(graph: Graph) -> Graph:
    """The graph after all passes that keep symbols."""
    names = [each.name for each in PIPELINE]
    return run(Program((graph,)), PIPELINE[: names.index(FuseRegions.name) + 1]).graphs[0]


def compare_lowered(graph: Graph, comparison: Comparison) -> None:
    """Hold every operation of a fused graph, and of the table lowered from it, against the calls behind it.

    A result has the shape that the last of its calls returned, or as many elements as one of several; an operand is
    memory that its calls read; a product has the FLOPs of its calls; an attribute that a call has too is equal there;
    the table counts what the graph counts.
    """
    weights = {op.name for op in graph.ops if op.target == "weight"}
    _operations(graph.ops, graph.values(), weights, comparison)
    for op in graph.ops:
        if op.body is not None:
            values = {value.name: value for value in op.body.args}
            values |= {value.name: value for each in op.body.ops for value in each.results}
            _operations(op.body.ops, values, set(), comparison)
    _table(graph, comparison)


def _operations(ops: Iterable[Op], values: Mapping[str, Value], weights: set[str], comparison: Comparison) -> None:
    for op in ops:
        calls = [comparison.calls[node] for node in op.nodes if node in comparison.calls]
        if not calls or op.target in ("region", "weight"):
            continue
        types = [values[name].type for name in op.operands]
        _results(op, calls, comparison)
        hidden = (
            weights if kind_of(op.target) in (Kind.ATTENTION, Kind.MOE, Kind.RECURRENT) else ()
        )  # read inside the engine
        shown = {name: values[name].type for name in op.operands if name not in hidden}
        _operands(op, [(name, shown[name]) for name in op.operands if name in shown], calls, comparison)
        if kind_of(op.target) is Kind.GEMM:
            flops = comparison.at(
                spec_of(op.target).flops(Signature(types, [v.type for v in op.results], dict(op.attrs)))
            )
            products = sum(_flops(call) for call in calls)
            if flops != products:
                comparison.refute(("flops", op.name), op, "FLOPs", "2*rows*columns*inner", flops, products)
        _attributes(op, calls[-1], comparison)


def _operands(op: Op, types: Iterable[tuple[str, TensorType]], calls: Iterable[Call], comparison: Comparison) -> None:
    """Each operand is, up to views, another tensor that the calls read, or the whole memory behind one."""
    read = [(prod(tensor.shape), tensor.base) for call in calls for tensor in call.reads]
    for name, type_ in types:
        size = comparison.at(type_.numel)
        match = next((each for each in read if each[0] == size), None) or next((e for e in read if size in e), None)
        if match is None:
            found = [elements for elements, _ in read]
            comparison.refute(("operand", op.name), op, f"elements of %{name}", str(type_.shape), size, found)
        else:
            read.remove(match)


def _results(op: Op, calls: Sequence[Call], comparison: Comparison) -> None:
    """Shapes as the last call returned; where the op has more results than that, elements as several calls did."""
    last = calls[-1].results
    if len(op.results) > len(last):
        returned = [prod(tensor.shape) for call in calls for tensor in call.results]
        for value in op.results:
            size = comparison.at(value.type.numel)
            if size not in returned:
                comparison.refute(("result", op.name), op, "elements", str(value.type.shape), size, returned)
        return
    for position, (value, tensor) in enumerate(zip(op.results, last)):
        if comparison.at(value.type.shape) != tensor.shape:
            text = str(value.type.shape)
            comparison.refute(
                ("result", op.name), op, f"result {position}", text, comparison.at(value.type.shape), tensor.shape
            )


def _attributes(op: Op, call: Call, comparison: Comparison) -> None:
    """Attributes that were captured under the same name; of axes and starts the passes write out the plain form."""
    rank = len(call.reads[0].shape) if call.reads else 0
    for name, claim in op.attrs:
        if name not in call.arguments or isinstance(claim, float):
            continue
        found = call.arguments[name]
        if name == "dim" and isinstance(found, tuple) and len(found) == 1 and not isinstance(claim, tuple):
            (found,) = found
        if name == "dim" and isinstance(found, int) and comparison.at(claim) != found and rank:
            found %= rank
        if name == "start" and found is None:
            found = 0
        comparison.check(("attribute of", op.name, name), op, f"attribute {name}", claim, found)


def _flops(call: Call) -> int:
    """FLOPs of a matrix product, from its operands alone."""
    if call.target == "aten.linear":
        rows, weight, *_ = call.reads
        return 2 * prod(rows.shape) * weight.shape[0]
    if call.target.endswith("_gemm"):  # weights are packed, or in the layout of their kernel: its result says how many
        return 2 * prod(call.reads[0].shape) * call.results[0].shape[-1]
    if call.target not in ("aten.mm", "aten.addmm", "_C.cutlass_scaled_mm"):
        return 0
    left, right = call.reads[:2] if call.target.startswith("_C") else call.reads[-2:]
    return 2 * prod(left.shape) * right.shape[-1]


def _table(graph: Graph, comparison: Comparison) -> None:
    """Compare what table and graph count, sizes included but for regions, which lower writes anew."""
    numbers = tuple((name, comparison.witness.values[name]) for name, _ in graph.config)
    table = run(Program((replace(graph, config=numbers),)), (Lower(), Dedup())).operations
    counted: Counter[Hashable] = Counter()
    for operation in table:
        types = (*operation.operands, *operation.results)
        for use in operation.uses:
            values = dict(comparison.witness.values)
            values |= {symbol: values[other] for symbol, other in use.bind}
            shapes = (tuple(int(evaluate(dim, values)) for dim in type_.shape) for type_ in types)
            counted[use.path, operation.target, () if operation.body else _rows(operation.kind, shapes)] += use.count
    values = graph.values()
    for op in graph.work():
        types = (*(values[name].type for name in op.operands), *(value.type for value in op.results))
        shapes = () if op.body else _rows(kind_of(op.target), (comparison.at(type_.shape) for type_ in types))
        listed, count = counted[op.path, op.target, shapes], comparison.at(op.count)
        if listed < count:
            comparison.refute(("table", op.name), op, "count in the table", str(op.count), count, listed)
        counted[op.path, op.target, shapes] -= count


def _rows(kind: Kind, shapes: Iterable[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    """A product has rows, however many axes they come in."""
    if kind is not Kind.GEMM:
        return tuple(shapes)
    return tuple((prod(shape[:-1]), shape[-1]) for shape in shapes)
