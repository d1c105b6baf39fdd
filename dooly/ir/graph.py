"""Nodes of the IR: frozen, structural, checked when built."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import sympy

from dooly.ir.expr import Expr, normal
from dooly.ir.opset import Kind, kind_of
from dooly.ir.types import Attribute, Attributes, Origin, TensorType

__all__ = ["Block", "Divides", "Free", "Graph", "Op", "Owner", "Value"]


@dataclass(frozen=True)
class Value:
    """A result: SSA name, type and, once taint has been propagated, the origin of each dimension."""

    name: str
    type: TensorType
    origins: tuple[Origin, ...] | None = None

    def __post_init__(self) -> None:
        if self.origins is not None and len(self.origins) != len(self.type.shape):
            raise ValueError(f"%{self.name} has {len(self.type.shape)} dimensions but {len(self.origins)} origins")


@dataclass(frozen=True)
class Op:
    """One line of a graph.

    ``target``, operand types and ``attrs`` identify the work; the rest is known about it:

    Attributes:
        target: ``dialect.name`` as captured, a name of the op set after ``canonicalize``.
        operands: names of the values read.
        results: values defined, at least one.
        attrs: sorted attributes; integers are expressions.
        count: how many times the model does this, over configuration symbols.
        path: module path of origin; source: ``file:line`` that issued it.
        nodes: indices of the captured nodes it stands for.
        body: the fused small operations of a ``region``.
    """

    target: str
    operands: tuple[str, ...]
    results: tuple[Value, ...]
    attrs: Attributes = ()
    count: Expr = sympy.S.One
    path: str = ""
    source: str = ""
    nodes: tuple[int, ...] = ()
    body: "Block | None" = None

    def __post_init__(self) -> None:
        if not self.results:
            raise ValueError(f"{self.target} at {self.path or 'unknown module'} defines no value")
        if [name for name, _ in self.attrs] != sorted({name for name, _ in self.attrs}):
            raise ValueError(f"attributes of {self.target} are not sorted or not unique")
        object.__setattr__(self, "count", normal(self.count))
        object.__setattr__(self, "nodes", tuple(sorted(self.nodes)))

    @property
    def name(self) -> str:
        """Name of the first result."""
        return self.results[0].name

    @property
    def place(self) -> str:
        """Its name and the module that it stands in, for messages."""
        return f"%{self.name} at {self.path or 'no module'}"

    def attr(self, name: str, default: Attribute = None) -> Attribute:
        """An attribute by name."""
        return dict(self.attrs).get(name, default)


@dataclass(frozen=True)
class Block:
    """Straight-line code of a region: arguments, operations, names of what it returns."""

    args: tuple[Value, ...]
    ops: tuple[Op, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Owner:
    """The module behind an opaque engine operation and what it says about itself."""

    path: str
    kind: str
    attrs: Attributes


@dataclass(frozen=True)
class Divides:
    """A fact that the model itself asserted while it was built: ``divisor`` divides ``dividend``."""

    divisor: Expr
    dividend: Expr

    def __post_init__(self) -> None:
        object.__setattr__(self, "divisor", normal(self.divisor))
        object.__setattr__(self, "dividend", normal(self.dividend))


@dataclass(frozen=True)
class Free:
    """Captured nodes that cost nothing, and why: ``view``, ``constant``, ``scalar``, ``allocation``, ``dead``."""

    reason: str
    nodes: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "nodes", tuple(sorted(self.nodes)))


@dataclass(frozen=True)
class Graph:
    """One step of one model.

    Attributes:
        name: model name.
        config: configuration symbols with their values, sorted.
        request: request symbols, sorted.
        facts: divisibility that the model asserts; they hold for ``config``.
        settings: what else chose this code path (platform, attention backend, dtype, engine), sorted.
        owners: modules behind opaque operations; gone after ``expand-opaque``.
        captured: number of nodes of the captured FX graph.  Each is in exactly one op or one ``free`` entry.
    """

    name: str
    config: tuple[tuple[str, int], ...]
    request: tuple[str, ...]
    ops: tuple[Op, ...]
    outputs: tuple[str, ...]
    facts: tuple[Divides, ...] = ()
    settings: tuple[tuple[str, str], ...] = ()
    owners: tuple[Owner, ...] = ()
    captured: int = 0
    free: tuple[Free, ...] = field(default=())

    def __post_init__(self) -> None:
        merged: dict[str, list[int]] = {}
        for entry in self.free:
            merged.setdefault(entry.reason, []).extend(entry.nodes)
        free = tuple(Free(reason, tuple(merged[reason])) for reason in sorted(merged) if merged[reason])
        object.__setattr__(self, "free", free)
        object.__setattr__(self, "config", tuple(sorted(self.config)))
        object.__setattr__(self, "request", tuple(sorted(self.request)))
        object.__setattr__(self, "settings", tuple(sorted(self.settings)))

    def values(self) -> dict[str, Value]:
        """All values by name."""
        return {value.name: value for op in self.ops for value in op.results}

    def work(self) -> tuple[Op, ...]:
        """Operations that cost something: all but sources and views."""
        return tuple(op for op in self.ops if kind_of(op.target) not in (Kind.SOURCE, Kind.VIEW))

    def with_ops(self, ops: Iterable[Op], free: Iterable[Free] = ()) -> "Graph":
        """The graph with other operations and further free nodes."""
        return replace(self, ops=tuple(ops), free=(*self.free, *free))

    @property
    def config_values(self) -> Mapping[str, int]:
        """Configuration symbols and their values."""
        return dict(self.config)

    def expressions(self) -> Iterator[tuple[Op, Expr]]:
        """Every dimension and count, with the operation that it belongs to, bodies included."""
        yield from _expressions(self.ops)

    def attribute_expressions(self) -> Iterator[tuple[Op, Expr]]:
        """Every integer or expression in an attribute, with its operation, bodies included."""
        yield from _attribute_expressions(self.ops)


def _expressions(ops: Iterable[Op]) -> Iterator[tuple[Op, Expr]]:
    for op in ops:
        yield op, op.count
        for value in op.results:
            yield from ((op, dim) for dim in value.type.shape)
        if op.body is not None:
            yield from _expressions(op.body.ops)


def _attribute_expressions(ops: Iterable[Op]) -> Iterator[tuple[Op, Expr]]:
    for op in ops:
        for _, value in op.attrs:
            yield from ((op, e) for e in _leaves(value))
        if op.body is not None:
            yield from _attribute_expressions(op.body.ops)


def _leaves(value: Attribute) -> Iterator[Expr]:
    if isinstance(value, tuple):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, Expr):
        yield value
