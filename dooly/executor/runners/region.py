"""Regions: the small operations between compute anchors, one after another or compiled, as the engine runs them."""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dooly.database import Point
from dooly.executor.runners.region_pass import Pass, compile_pass, symbols_of
from dooly.executor.session import Session, Unsupported
from dooly.executor.tensors import dtype_of, need_memory, shape_of
from dooly.executor.trial import Trial
from dooly.ir import Block, Op, Operation, Value, evaluate
from dooly.ir.opset import spec_of

__all__ = ["RegionRunner"]

_EXAMPLE_TOKENS = 2048
"""The compiler picks its tiles by an example; the engine shows it a step full of tokens."""


class RegionRunner:
    """``region(...)`` with its `body`, or one memory-bound operation by itself.

    Where the engine compiles the model, the body is compiled with the engine's options, once, for any number of tokens.
    What has a row per row of logits comes after the model: the engine runs that eagerly, and so does this.

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
        self._weights = {arg.name: self._cosines(arg) if arg.name in angles else self._tensor(arg, {}) for arg in fixed}
        compiled = session.machine.mode == "graph"
        model, after = _model_and_after(operation, self._body) if compiled else (self._body, None)
        self._parts = [Pass(block, session, native=compiled) for block in (model,) if block.ops]
        if compiled:
            for part in self._parts:
                compile_pass(part, self._inputs(part.block, dict.fromkeys(operation.axes, _EXAMPLE_TOKENS)), session)
        if after is not None:
            self._parts.append(Pass(after, session))

    def trial(self, point: Point) -> Trial:
        """One pass over the body.

        Raises:
            Unsupported: a result has another shape than the region says.
        """
        sizes = point.axes
        names = [arg.name for arg in self._body.args]
        inputs = self._inputs(self._body, sizes)
        given = dict(zip(names, inputs, strict=True))
        parts = self._parts

        def in_turn() -> tuple[Any, ...]:
            values = dict(given)
            for part in parts:
                made = part(*[values[arg.name] for arg in part.block.args])
                values |= zip(part.block.outputs, made, strict=True)
            return tuple(values[name] for name in self._body.outputs)

        call = functools.partial(parts[0], *inputs) if parts[0].block is self._body else in_turn
        self._check(call(), sizes)
        fresh = [
            given[arg.name] for arg in self._body.args if not _is_fixed(arg) and given[arg.name].is_floating_point()
        ]
        return Trial(call, inputs=inputs, fresh=tuple(fresh))

    def _inputs(self, block: Block, sizes: Mapping[str, int]) -> tuple[Any, ...]:
        return tuple(self._weights[arg.name] if _is_fixed(arg) else self._tensor(arg, sizes) for arg in block.args)

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
            source, device = torch.Generator(self._session.device).manual_seed(7), self._session.device
            values = torch.randint(0, max(1, top), shape, generator=source, device=device)
            if limit is not None and limit.sorted:
                values = values.sort().values
            return values.to(dtype_of(arg.type.dtype))
        return self._session.random(shape, arg.type.dtype)

    def _cosines(self, arg: Value) -> Any:
        """A table [positions, 2 * half] of cosines and sines: rotating in place again and again keeps the length."""
        import torch

        positions, width = shape_of(arg.type, {})
        angles = self._session.random((positions, width // 2), "f32")
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


def _model_and_after(operation: Operation, body: Block) -> tuple[Block, Block | None]:
    """Split into what the model's forward pass has, and what the engine does afterwards with rows of logits."""
    of_logits = operation.uses and all(("T", "L") in use.bind for use in operation.uses)
    late: set[str] = set()
    for op in body.ops:
        if of_logits or "L" in symbols_of(op) or late & set(op.operands):
            late |= {value.name for value in op.results}
    early_ops, late_ops = (
        tuple(op for op in body.ops if (op.results[0].name in late) == wanted) for wanted in (False, True)
    )
    if not late_ops:
        return body, None
    values = {arg.name: arg for arg in body.args} | {value.name: value for op in early_ops for value in op.results}
    needed = [name for op in late_ops for name in op.operands if name in values]
    made_early = {value.name for op in early_ops for value in op.results}
    early_outputs = tuple(dict.fromkeys(name for name in (*needed, *body.outputs) if name in made_early))
    read_early = {name for op in early_ops for name in op.operands}
    model = Block(tuple(arg for arg in body.args if arg.name in read_early), early_ops, early_outputs)
    late_outputs = tuple(name for name in body.outputs if name in late)
    return model, Block(tuple(values[name] for name in dict.fromkeys(needed)), late_ops, late_outputs)
