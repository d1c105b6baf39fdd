"""One distinct piece of work: configuration substituted, request symbols free, with everyone who uses it."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import sympy

from dooly.ir.call import Call
from dooly.ir.expr import Expr, normal, symbols_of
from dooly.ir.form import well_formed
from dooly.ir.graph import Block
from dooly.ir.opset import Kind, Spec, kind_of, spec_of
from dooly.ir.printer import format_operation
from dooly.ir.types import Attribute, Attributes, TensorType

__all__ = ["Operation", "Use", "viewed"]


@dataclass(frozen=True, order=True)
class Use:
    """One place of an operation: it runs ``count`` times in one step of ``model``, at one module path.

    ``bind`` renames axes: ``(("T", "L"),)`` says that the rows here are logit rows.
    """

    model: str
    path: str
    count: int
    bind: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"a use at {self.path or 'unknown module'} counts {self.count}, expected at least 1")


@dataclass(frozen=True)
class Operation:
    """Target, operand and result types, attributes: equal work is equal text, whatever model it came from.

    Attributes:
        status: ``covered``, ``uncovered`` or ``unsupported`` once ``cover`` has run, else empty.
    """

    target: str
    operands: tuple[TensorType, ...]
    results: tuple[TensorType, ...]
    attrs: Attributes = ()
    body: Block | None = None
    uses: tuple[Use, ...] = ()
    status: str = field(default="")

    def __post_init__(self) -> None:
        if self.status not in ("", "covered", "uncovered", "unsupported"):
            raise ValueError(f"unknown status {self.status!r} of an operation")
        object.__setattr__(self, "uses", tuple(sorted(self.uses)))

    @cached_property
    def signature(self) -> str:
        """16 hexadecimal digits that stand for the work itself, not for who uses it."""
        text = format_operation(replace(self, uses=(), status=""), name="")
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """Readable name: target and the start of the signature."""
        return f"{self.target.rpartition('.')[2]}_{self.signature[:8]}"

    @property
    def kind(self) -> Kind:
        """The kind of its target: what bounds it."""
        return kind_of(self.target)

    @cached_property
    def axes(self) -> tuple[str, ...]:
        """Request symbols that a point must assign, sorted."""
        dims = (dim for type_ in (*self.operands, *self.results) for dim in type_.shape)
        names = {name for dim in dims for name in symbols_of(dim)}
        return tuple(sorted(names | set(spec_of(self.target).batch)))

    @property
    def count(self) -> int:
        """Occurrences over all uses."""
        return sum(use.count for use in self.uses)

    @cached_property
    def flops(self) -> Expr:
        """Floating-point operations, over the axes."""
        with well_formed(self.target, f"@{self.name}"):
            if self.body is not None:
                return normal(sum((spec.flops(call) for spec, call, _ in _calls(self.body)), sympy.Integer(0)))
            return normal(spec_of(self.target).flops(Call(self.operands, self.results, dict(self.attrs))))

    @cached_property
    def bytes(self) -> Expr:
        """Bytes that must cross memory: a region reads each argument and writes each new output once."""
        with well_formed(self.target, f"@{self.name}"):
            if self.body is None:
                return spec_of(self.target).total_bytes(Call(self.operands, self.results, dict(self.attrs)))
            return self._bytes_of(self.body)

    def _bytes_of(self, body: Block) -> Expr:
        read: dict[str, dict[str, Expr]] = {arg.name: {} for arg in body.args}
        for spec, call, sources in _calls(body):
            for slot, (argument, part) in sources.items():
                amount, parts = spec.read_bytes(call, slot), read[argument]
                parts[part] = amount if part not in parts else sympy.Max(parts[part], amount)
        total: Expr = sympy.Integer(0)
        for arg in body.args:
            parts = read[arg.name]
            amount = sum(parts.values(), sympy.Integer(0))
            total += amount if len(parts) < 2 else sympy.Min(arg.type.bytes, amount)
        seen = viewed(body)
        new = (r.bytes for r, name in zip(self.results, body.outputs, strict=True) if name not in seen)
        return normal(total + sum(new, sympy.Integer(0)))

    def attr(self, name: str, default: Attribute = None) -> Attribute:
        """An attribute by name."""
        return dict(self.attrs).get(name, default)


def viewed(body: Block) -> dict[str, tuple[str, str]]:
    """Values of a region that are an argument or a view of one, with that argument and the part of it they show.

    A split or a slice shows a part of its own; other views show what their operand shows.
    """
    found = {arg.name: (arg.name, arg.name) for arg in body.args}
    for op in body.ops:
        if kind_of(op.target) is Kind.VIEW and op.operands and op.operands[0] in found:
            argument, part = found[op.operands[0]]
            own = op.target in ("split", "slice")
            found |= {value.name: (argument, value.name if own else part) for value in op.results}
    return found


def _calls(body: Block) -> Iterator[tuple[Spec, Call, dict[int, tuple[str, str]]]]:
    """The operations of a region that do work, with the argument and part behind each operand slot that reads one."""
    types = {value.name: value.type for value in body.args}
    seen = viewed(body)
    for op in body.ops:
        types |= {value.name: value.type for value in op.results}
        if kind_of(op.target) is Kind.VIEW:
            continue
        call = Call([types[name] for name in op.operands], [value.type for value in op.results], dict(op.attrs))
        yield spec_of(op.target), call, {i: seen[name] for i, name in enumerate(op.operands) if name in seen}
