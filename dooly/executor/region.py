"""Regions: the small operations between compute anchors, one after another as the engine runs them in eager mode."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dooly.database import Point
from dooly.executor.runner import Trial
from dooly.executor.session import Session, Unsupported
from dooly.executor.small_ops import callable_for
from dooly.executor.tensors import dtype_of, need_memory, random_tensor, shape_of
from dooly.ir import Block, Op, Operation, Value, evaluate
from dooly.ir.opset import spec_of

__all__ = ["RegionRunner"]


@dataclass(frozen=True)
class _Step:
    """One operation: what to call, where its operands stand, where its results go."""

    call: Callable[..., Any]
    operands: tuple[int, ...]
    results: tuple[int, ...]


class RegionRunner:
    """``region(...)`` with its `body`, or one memory-bound operation by itself.

    Raises:
        Unsupported: an operation of the body that has no counterpart here.
        MemoryError: the arguments would not fit.
    """

    def __init__(self, operation: Operation, session: Session) -> None:
        self._session = session
        self._body = operation.body or _single(operation)
        self._limits = _index_limits(self._body)
        fixed = [arg for arg in self._body.args if _is_fixed(arg)]
        self.weight_bytes = sum(int(arg.type.bytes) for arg in fixed)
        need_memory(self.weight_bytes, session.machine)
        angles = {op.operands[3] for op in self._body.ops if op.target == "rotary_embedding"}
        self._weights = {arg.name: _cosines(arg) if arg.name in angles else self._tensor(arg, {}) for arg in fixed}
        for op in self._body.ops:  # an operation that cannot run is found here, not in the middle of a point
            callable_for(op, {}, session, check_only=True)

    def trial(self, point: Point) -> Trial:
        """One pass over the body.

        Raises:
            Unsupported: a result has another shape than the region says.
        """
        sizes = point.axes
        slots: dict[str, int] = {}
        tensors: list[Any] = []
        for arg in self._body.args:
            slots[arg.name] = len(tensors)
            tensors.append(self._weights.get(arg.name, None) if _is_fixed(arg) else self._tensor(arg, sizes))
        inputs = tuple(tensors)
        steps: list[_Step] = []
        for op in self._body.ops:
            operands = tuple(slots[name] for name in op.operands)
            for value in op.results:
                slots[value.name] = len(tensors)
                tensors.append(None)
            results = tuple(slots[value.name] for value in op.results)
            steps.append(_Step(callable_for(op, sizes, self._session), operands, results))
        outputs = tuple(slots[name] for name in self._body.outputs)

        def call() -> tuple[Any, ...]:
            values = list(tensors)
            for step in steps:
                made = step.call(*[values[slot] for slot in step.operands])
                if len(step.results) == 1:
                    values[step.results[0]] = made
                else:
                    for slot, value in zip(step.results, made, strict=True):
                        values[slot] = value
            return tuple(values[slot] for slot in outputs)

        self._check(call(), sizes)
        return Trial(call, inputs=inputs)

    def _check(self, made: Sequence[Any], sizes: Mapping[str, int]) -> None:
        types = {value.name: value.type for op in self._body.ops for value in op.results}
        types |= {arg.name: arg.type for arg in self._body.args}
        for name, tensor in zip(self._body.outputs, made, strict=True):
            wanted = shape_of(types[name], sizes), dtype_of(types[name].dtype)
            if (tuple(tensor.shape), tensor.dtype) != wanted:
                raise Unsupported(f"%{name} came out as {tuple(tensor.shape)} {tensor.dtype}, expected {wanted}")

    def _tensor(self, arg: Value, sizes: Mapping[str, int]) -> Any:
        """Random values; indices stay within the table that they point into, and rows are picked in order."""
        import torch

        shape = shape_of(arg.type, sizes)
        need_memory(8 * math.prod(shape), self._session.machine)
        if arg.type.dtype == "bool" or arg.type.dtype[0] in "iu":
            limit = self._limits.get(arg.name)
            top = 2 if limit is None or arg.type.dtype == "bool" else int(evaluate(limit.rows, sizes))
            values = torch.randint(0, max(1, top), shape, generator=torch.Generator().manual_seed(7))
            if limit is not None and limit.sorted:
                values = values.sort().values
            return values.to(dtype_of(arg.type.dtype))
        return random_tensor(shape, arg.type.dtype)


def _cosines(arg: Value) -> Any:
    """A table [positions, 2 * half] of true cosines and sines: rotating in place again and again keeps the length."""
    import torch

    positions, width = shape_of(arg.type, {})
    angles = random_tensor((positions, width // 2), "f32")
    return torch.cat([angles.cos(), angles.sin()], dim=1).to(dtype_of(arg.type.dtype))


@dataclass(frozen=True)
class _Limit:
    """Indices lie below `rows`; rows picked from activations come in order, rows of a table do not."""

    rows: Any
    sorted: bool


def _index_limits(body: Block) -> dict[str, _Limit]:
    """For each integer argument, the table that it indexes directly, or else the smallest table of the body."""
    types = {arg.name: arg.type for arg in body.args}
    types |= {value.name: value.type for op in body.ops for value in op.results}
    tables: list[_Limit] = []
    direct: dict[str, _Limit] = {}
    for op in body.ops:
        for position in spec_of(op.target).gathers:
            limit = _Limit(types[op.operands[position]].shape[0], op.target == "index_select")
            tables.append(limit)
            direct |= {name: limit for name in op.operands if types[name].dtype[0] == "i"}
    fixed = [limit for limit in tables if not limit.rows.free_symbols]
    smallest = min(fixed, key=lambda limit: int(limit.rows), default=None)
    fallback = {} if smallest is None else {arg.name: smallest for arg in body.args if arg.type.dtype[0] == "i"}
    return fallback | direct


def _is_fixed(arg: Value) -> bool:
    """Whether the argument is a weight: no dimension depends on the batch."""
    return not any(dim.free_symbols for dim in arg.type.shape)


def _single(operation: Operation) -> Block:
    """A body that holds just this operation."""
    args = tuple(Value(f"a{index}", type_) for index, type_ in enumerate(operation.operands))
    results = tuple(Value(f"r{index}", type_) for index, type_ in enumerate(operation.results))
    op = Op(operation.target, tuple(arg.name for arg in args), results, operation.attrs)
    return Block(args, (op,), tuple(value.name for value in results))
