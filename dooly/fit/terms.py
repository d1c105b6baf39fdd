"""The symbolic part of a formula: a sum of terms, each the largest of its contributions (parameter and quantity)."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeVar, cast

import sympy

from dooly.fit.observation import Mixture
from dooly.fit.target import Subject
from dooly.host import AROUND, part_of
from dooly.ir.expr import Expr, FloorDiv, normal, symbol, symbols_of
from dooly.ir.operation import Operation
from dooly.ir.opset import Kind

__all__ = [
    "PARAMETERS",
    "Contribution",
    "ParameterKind",
    "Regime",
    "Structure",
    "Term",
    "family_structures",
    "linear_structure",
    "regimes",
]


T = TypeVar("T")


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
    "chain": ParameterKind("us/row"),
    "launch_mixed": ParameterKind("us"),
    "bandwidth_mixed": ParameterKind("GB/s", 1e3),
    "chain_mixed": ParameterKind("us/row"),
    "per_request_mixed": ParameterKind("us/request"),
    "launch_unsplit": ParameterKind("us"),
    "bandwidth_unsplit": ParameterKind("GB/s", 1e3),
    "chain_unsplit": ParameterKind("us/row"),
    "per_request_unsplit": ParameterKind("us/request"),
    "per_depth": ParameterKind("us/column"),
    "per_head": ParameterKind("us/head"),
    "per_token": ParameterKind("us/token"),
    "per_request": ParameterKind("us/request"),
    "per_prompt": ParameterKind("us/prompt"),
    "per_expert": ParameterKind("us/expert"),
    "per_logit": ParameterKind("us/row"),
    "per_operation": ParameterKind("us/operation"),
    "per_mixture": ParameterKind("us/mixture"),
    "per_second_call": ParameterKind("us/call"),
    "per_work": ParameterKind("us/us"),
}
"""Parameters by name.

``chain`` is what one row costs where the rows of the longest context are worked off one after another.  ``..._mixed``
is the same parameter where a request has several new tokens, ``..._unsplit`` where more requests decode than those
whose contexts are split: other code serves such a step.  Over operations of different shapes: ``per_depth`` is the time
that a product takes longer for each column that it sums over, ``per_head`` that of one KV head of one request.
"""

_PER_SYMBOL = {
    "T": "per_token",
    "R": "per_request",
    "A": "per_expert",
    "L": "per_logit",
    "N": "per_operation",
    "X": "per_mixture",
    "Y": "per_second_call",
    "U": "per_work",
}


_ONE = cast(Expr, sympy.Integer(1))


@dataclass(frozen=True)
class Contribution:
    """``quantity`` times the parameter, or divided by it when it is a rate.

    Attributes:
        within: 1 for the batches that it counts for, 0 for others; all of a term are alike in this.
    """

    parameter: str
    quantity: Expr
    within: Expr = _ONE

    def __post_init__(self) -> None:
        if self.parameter not in PARAMETERS:
            raise ValueError(f"unknown parameter {self.parameter!r}, expected one of {', '.join(PARAMETERS)}")

    @property
    def kind(self) -> ParameterKind:
        """Unit and scale of the parameter."""
        return PARAMETERS[self.parameter]

    def expression(self, parameter: Expr) -> Expr:
        """Time in us, of batches that it counts for."""
        if self.kind.rate is None:
            return self.quantity * parameter
        return self.quantity / (sympy.Integer(int(self.kind.rate)) * parameter)


Term = tuple[Contribution, ...]
"""Their maximum."""

Structure = tuple[Term, ...]
"""Sum of terms; parameter names are unique in it."""

_MIXED = symbol("M")
_LAUNCH: Term = (Contribution("launch", _ONE),)
_TILES = (16, 64, 128)
_ENOUGH_FOR_TILES = 16


@dataclass(frozen=True)
class Regime:
    """Batches that the same code serves.

    Attributes:
        within: 1 for its batches, 0 for all others; so is every contribution of its structures.
        structures: candidates; which one holds is decided by held-out error, and between equals by their order.
        additions: terms that may be added to the best, one after the other, where they lower its held-out error.
    """

    within: Expr
    structures: tuple[Structure, ...]
    additions: tuple[Term, ...] = ()


def regimes(subject: Subject, points: int) -> tuple[tuple[Regime, ...], ...]:
    """Return what a formula may be put together from, the finest division first; the last has one regime.

    Args:
        points: how many points there are; few cannot tell tiles from noise.
    """
    part = part_of(subject.signature)
    if part is not None and part.constant:
        return ((Regime(_ONE, ((_LAUNCH,),)),),)
    if subject.symbols == AROUND:
        return ((Regime(_ONE, tuple(_around())),),)
    if subject.kind is not Kind.ATTENTION or "Sp" in subject.symbols:
        return (_whole(subject, points),)  # latent attention: its FLOPs tell decode and prefill apart already
    decode = _ONE - _MIXED
    mixed = _regime(_MIXED, _prefilling(subject), "_mixed", (_per("T"),))
    coarser = (_decoding(subject, decode), mixed), _whole(subject, points)
    if subject.split is None:
        return coarser
    many = cast(Expr, sympy.Min(1, FloorDiv(symbol("R"), sympy.Integer(subject.split + 1))))
    split, unsplit = _decoding(subject, decode * (1 - many)), _unsplit(subject, decode * many)
    return ((split, unsplit, mixed), *coarser)


def linear_structure(symbols: Sequence[str]) -> Structure:
    """A constant, and so much for each of these symbols."""
    return (_LAUNCH, *map(_per, symbols))


def _whole(subject: Subject, points: int) -> tuple[Regime]:
    if subject.kind is Kind.ATTENTION:
        return (Regime(_ONE, tuple(_attention(subject)), (_per("T"),)),)
    return (Regime(_ONE, tuple(_stateless(subject, points))),)


def _regime(within: Expr, structures: Iterable[Structure], name: str = "", additions: Structure = ()) -> Regime:
    """Structures for batches of one regime only; parameters that others have, too, get its name."""
    batches = normal(within)

    def here(structure: Structure) -> Structure:
        return tuple(
            tuple(
                Contribution(
                    c.parameter + name if c.parameter + name in PARAMETERS else c.parameter, c.quantity, batches
                )
                for c in term
            )
            for term in structure
        )

    return Regime(within, tuple(map(here, structures)), here(additions))


def _around() -> Iterator[Structure]:
    """Host work around a step: what a decoding request and a prompt cost, whichever stand beside them.

    Steps with prompts go through code that others do not, so they have a constant of their own.
    """
    requests, tokens, prompts = map(symbol, AROUND)
    decoding = requests - prompts
    with_prompts = normal(sympy.Max(0, sympy.Min(1, tokens - requests)))
    launch = Contribution("launch", _ONE, normal(_ONE - with_prompts))
    launch_mixed = Contribution("launch_mixed", _ONE, with_prompts)
    sizes = (
        Contribution("per_request", decoding),
        Contribution("per_prompt", prompts, with_prompts),
        Contribution("per_token", tokens - decoding, with_prompts),
    )
    for chosen in _subsets(sizes):
        yield tuple((each,) for each in (launch, launch_mixed, *chosen))


def _stateless(subject: Subject, points: int) -> Iterator[Structure]:
    """Small operations and collectives are bounded by what they move: their FLOPs would only rename the bandwidth."""
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
    if subject.mixture is not None:
        for tile in _TILES:
            padded = _padded_experts(subject.flops, subject.mixture, tile)
            for base in _rooflines(padded, subject.bytes):
                for extra in extras:
                    yield (_LAUNCH, *base, *extra)


def _decoding(subject: Subject, within: Expr) -> Regime:
    """Memory, and the longest context as far as its rows are worked off in turn: the larger of both, or their sum."""
    memory, longest = Contribution("bandwidth", subject.bytes), Contribution("chain", symbol("Sd"))
    works: tuple[Structure, ...] = (((memory,),), ((memory, longest),), ((memory,), (longest,)))
    return _regime(within, ((_LAUNCH, *work, *more) for more in ((), (_per("R"),)) for work in works))


def _unsplit(subject: Subject, within: Expr) -> Regime:
    """The longest context is a bound as memory is one, whether or not the points show it."""
    work = Contribution("bandwidth", subject.bytes), Contribution("chain", symbol("Sd"))
    return _regime(within, ((_LAUNCH, work), (_LAUNCH, work, _per("R"))), "_unsplit")


def _prefilling(subject: Subject) -> Iterator[Structure]:
    """Compute and the longest chain, the larger of both or their sum, plus memory."""
    memory = Contribution("bandwidth", subject.bytes)
    for pairs in ("P", "Pp", "Pt"):
        flops = Contribution("peak", _replaced(subject.flops, symbol("P"), symbol(pairs)))
        works: list[Structure] = [((flops,),)]
        for rows in ("Sx", "Sq"):
            chain = Contribution("chain", symbol(rows))
            works += [((flops, chain),), ((flops,), (chain,))]
        for work in works:
            yield (_LAUNCH, *work, (memory,), _per("R"))


def _attention(subject: Subject) -> Iterator[Structure]:
    """Compute or the longest chain beside prefills, plus memory or the longest chain of a step that only decodes."""
    rows = Contribution("bandwidth", subject.bytes)
    if "Sp" in subject.symbols:
        for base in _rooflines(subject.flops, subject.bytes):
            yield (_LAUNCH, *base, _per("R"))
        return
    for pairs in ("P", "Pp", "Pt"):
        flops = Contribution("peak", _replaced(subject.flops, symbol("P"), symbol(pairs)))
        for beside in ((), *((Contribution("chain_mixed", symbol(each)),) for each in ("Sx", "Sq"))):
            for alone in ((), (Contribution("chain", symbol("Sd")),)):
                yield (_LAUNCH, (flops, *beside), (rows, *alone), _per("R"))


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


def family_structures(operation: Operation, subject: Subject) -> tuple[Structure, ...]:
    """Candidates for operations that differ in their shapes only: alike but for the quantities."""
    flops, rows = Contribution("peak", subject.flops), Contribution("bandwidth", subject.bytes)
    if subject.kind is Kind.ATTENTION:
        return tuple(_shared_attention(operation, subject))
    if subject.kind is Kind.GEMM:
        depth = (Contribution("per_depth", operation.operands[0].shape[-1]),)
        work: tuple[Structure, ...] = (((flops, rows),), ((flops,), (rows,)))
        return tuple((_LAUNCH, *base, *more) for base in work for more in ((), (depth,)))
    if subject.mixture is not None:
        padded = [_padded_experts(subject.flops, subject.mixture, tile) for tile in _TILES]
        peaks = [flops, *(Contribution("peak", each) for each in padded)]
        work = tuple(base for peak in peaks for base in (((peak, rows),), ((peak,), (rows,))))
        return tuple((_LAUNCH, *base, *more) for base in work for more in ((), (_per("A"),)))
    parts = (Contribution("per_operation", sympy.Integer(len(operation.body.ops) if operation.body else 1)),)
    return ((_LAUNCH, (rows,)), (_LAUNCH, (rows,), parts))


def _shared_attention(operation: Operation, subject: Subject) -> Iterator[Structure]:
    kv_heads = operation.attr("kv_heads")
    heads = (Contribution("per_head", symbol("R") * (kv_heads if isinstance(kv_heads, Expr) else sympy.Integer(1))),)
    for structure in _attention(subject):
        yield (*structure[:-1], heads)


def _per(name: str) -> Term:
    return (Contribution(_PER_SYMBOL[name], symbol(name)),)


def _subsets(names: Sequence[T]) -> Iterator[tuple[T, ...]]:
    for size in range(len(names) + 1):
        yield from combinations(names, size)


def _replaced(e: Expr, old: Expr, new: Expr) -> Expr:
    return cast(Expr, e.xreplace({old: new}))


def _padded_experts(flops: Expr, mixture: Mixture, tile: int) -> Expr:
    """FLOPs when the tokens of each activated expert, all alike, are rounded up to whole tiles."""
    tokens, experts = symbol("T"), symbol("A")
    routed = sympy.Rational(mixture.sources * mixture.chosen * mixture.here, mixture.experts)
    over, under = routed.as_numer_denom()
    tiles = cast(Expr, FloorDiv(over * tokens + (tile * under - 1) * experts, tile * under * experts))
    return _replaced(flops, tokens, tile * experts * tiles / routed)


def _padded(flops: Expr, axis: str, tile: int) -> Expr:
    """FLOPs when the axis is rounded up to whole tiles."""
    size = symbol(axis)
    tiles = cast(Expr, FloorDiv(size + (tile - 1), sympy.Integer(tile)))
    return normal(_replaced(flops, size, tile * tiles)) if axis in symbols_of(flops) else flops
