"""The symbolic part of a formula: a sum of terms, each the largest of its contributions (parameter and quantity)."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import cast

import sympy

from dooly.fit.subject import Subject
from dooly.ir.expr import Expr, FloorDiv, normal, symbol, symbols_of
from dooly.ir.opset import Kind

__all__ = ["PARAMETERS", "Contribution", "ParameterKind", "Structure", "Term", "structures"]


@dataclass(frozen=True)
class ParameterKind:
    """A parameter with a meaning.

    Attributes:
        unit: of the value.
        rate: quantity units that 1 of the parameter gets done in one us; None for a cost of ``unit`` per quantity.
    """

    unit: str
    rate: float | None = None


PARAMETERS = {
    "launch": ParameterKind("us"),
    "peak": ParameterKind("TFLOP/s", 1e6),
    "bandwidth": ParameterKind("GB/s", 1e3),
    "peak_one": ParameterKind("TFLOP/s", 1e6),
    "per_token": ParameterKind("us/token"),
    "per_request": ParameterKind("us/request"),
    "per_expert": ParameterKind("us/expert"),
    "per_logit": ParameterKind("us/row"),
    "per_operation": ParameterKind("us/operation"),
}
"""By name.  ``peak_one`` is the rate at which the work of a single request proceeds: it bounds skewed batches."""

_PER_SYMBOL = {"T": "per_token", "R": "per_request", "A": "per_expert", "L": "per_logit", "N": "per_operation"}


@dataclass(frozen=True)
class Contribution:
    """``quantity`` times the parameter, or divided by it when it is a rate."""

    parameter: str
    quantity: Expr

    def __post_init__(self) -> None:
        if self.parameter not in PARAMETERS:
            raise ValueError(f"unknown parameter {self.parameter!r}, expected one of {', '.join(PARAMETERS)}")

    @property
    def kind(self) -> ParameterKind:
        """Unit and scale of the parameter."""
        return PARAMETERS[self.parameter]

    def expression(self, parameter: Expr) -> Expr:
        """Time in us."""
        if self.kind.rate is None:
            return self.quantity * parameter
        return self.quantity / (sympy.Integer(int(self.kind.rate)) * parameter)


Term = tuple[Contribution, ...]
"""Their maximum."""

Structure = tuple[Term, ...]
"""Sum of terms; parameter names are unique in it."""

_LAUNCH: Term = (Contribution("launch", sympy.Integer(1)),)
_TILES = (16, 32, 64, 128)
_ENOUGH_FOR_TILES = 16


def structures(subject: Subject, points: int) -> Iterator[Structure]:
    """The candidates for an operation; which one holds is decided by held-out error, and between equals by this order.

    Args:
        points: how many points there are; few cannot tell tiles from noise.

    Small operations and collectives are bounded by what they move: their few FLOPs would only rename the bandwidth.
    """
    if subject.kind is Kind.ATTENTION:
        yield from _attention(subject)
        return
    sizes = [name for name in subject.symbols if name in _PER_SYMBOL]
    flops = subject.flops if subject.kind in (Kind.GEMM, Kind.MOE, Kind.RECURRENT) else sympy.Integer(0)
    bases = list(_rooflines(flops, subject.bytes))
    if subject.single is None or not bases:
        extras: list[Structure] = [tuple(map(_per, chosen)) for chosen in _subsets(sizes)]
    else:
        extras = [()]
    yield from bases
    for base in [*bases, ()]:
        for extra in extras:
            yield (_LAUNCH, *base, *extra)
            if subject.kind is None and extra:
                yield extra
    if bases:
        yield ((*_LAUNCH, *_work(flops, subject.bytes)),)
    if subject.kind is Kind.GEMM and subject.single is not None and points >= _ENOUGH_FOR_TILES:
        for tile in _TILES:
            padded = _padded(subject.flops, subject.single, tile)
            yield (_LAUNCH, _work(padded, subject.bytes))


def _attention(subject: Subject) -> Iterator[Structure]:
    pairs = symbol("P")
    flops, one = (
        Contribution("peak", subject.flops),
        Contribution("peak_one", _replaced(subject.flops, pairs, symbol("Pm"))),
    )
    prefill = Contribution("peak", _replaced(subject.flops, pairs, symbol("Pp")))
    rows = Contribution("bandwidth", subject.bytes)
    latent = list(_rooflines(subject.flops, subject.bytes))  # its FLOPs tell decode and prefill apart already
    bases: list[Structure] = [
        ((flops,),),
        ((rows,),),
        ((flops, rows),),
        ((flops,), (rows,)),
        ((prefill,), (rows,)),
        ((flops, one), (rows,)),
        ((prefill, one), (rows,)),
    ]
    for base in latent if "Sp" in subject.symbols else bases:
        for chosen in _subsets(["R", "T"]):
            yield (_LAUNCH, *base, *map(_per, chosen))


def _rooflines(flops: Expr, bytes_: Expr) -> Iterator[Structure]:
    """The larger of compute and memory, their sum, each alone."""
    work = _work(flops, bytes_)
    if len(work) == 2:
        yield (work,)
        yield ((work[0],), (work[1],))
    for contribution in reversed(work):
        yield ((contribution,),)


def _work(flops: Expr, bytes_: Expr) -> Term:
    both = Contribution("peak", flops), Contribution("bandwidth", bytes_)
    return tuple(c for c in both if c.quantity.free_symbols)


def _per(name: str) -> Term:
    return (Contribution(_PER_SYMBOL[name], symbol(name)),)


def _subsets(names: list[str]) -> Iterator[tuple[str, ...]]:
    for size in range(len(names) + 1):
        yield from combinations(names, size)


def _replaced(e: Expr, old: Expr, new: Expr) -> Expr:
    return cast(Expr, e.xreplace({old: new}))


def _padded(flops: Expr, axis: str, tile: int) -> Expr:
    """FLOPs when the axis is rounded up to whole tiles."""
    size = symbol(axis)
    tiles = cast(Expr, FloorDiv(size + (tile - 1), sympy.Integer(tile)))
    return normal(_replaced(flops, size, tile * tiles)) if axis in symbols_of(flops) else flops
