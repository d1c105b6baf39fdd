"""The target of a fit: the quantities of an operation that a formula may use, and where they come from."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
import sympy
from numpy.typing import NDArray

from dooly.errors import FitError
from dooly.fit.observation import Mixture, Observation
from dooly.hardware.backends import backend_of
from dooly.host import OPTIONAL_AXES, host_parts, part_of
from dooly.ir.expr import Expr, evaluate, normal, symbol
from dooly.ir.operation import Operation
from dooly.ir.opset import Kind

__all__ = ["Subject", "host_subject", "subject_of"]

Column = NDArray[np.float64]

_APART = 2**20
"""The factor, 20 doublings, by which batches with and without prompts lie apart: what is left over of one says nothing
of the other."""


@dataclass(frozen=True)
class Subject:
    """An operation as the fit sees it.

    Attributes:
        signature, name: of the operation.
        kind: what bounds it; None for work of the host.
        flops, bytes: over `symbols`.
        symbols: request symbols that formulas may use.
        coordinates: what residual and domain are measured in, each a ratio or a symbol that varies by itself.
        window: of windowed attention.
        mixture: of experts.
        split: most requests whose contexts kernels that decode split into parts; None if they do so with any number.
    """

    signature: str
    name: str
    kind: Kind | None
    flops: Expr
    bytes: Expr
    symbols: tuple[str, ...]
    coordinates: tuple[Expr, ...]
    window: int | None = None
    mixture: Mixture | None = None
    split: int | None = None

    @cached_property
    def single(self) -> str | None:
        """The only symbol, if there is just one."""
        return self.symbols[0] if len(self.symbols) == 1 else None

    def columns(self, observations: Sequence[Observation]) -> dict[str, Column]:
        """float64[observations] by symbol.

        Raises:
            FitError: a point lacks a symbol.
        """
        rows = [observation.values(self.symbols, self.window, self.mixture) for observation in observations]
        return {name: np.array([row[name] for row in rows]) for name in self.symbols}


def subject_of(operation: Operation) -> Subject:
    """The subject of a lowered operation.

    Raises:
        FitError: its cost depends on symbols that are no axis of it.
    """
    flops, bytes_ = operation.flops, operation.bytes
    window = _integer(operation, "window")
    mixture = None
    if operation.kind is Kind.ATTENTION:
        names = (
            "T",
            "R",
            "S",
            "P",
            "M",
            "Sd",
            "Sx",
            "Tp",
            "Pp",
            "Pt",
            "Sq",
            *(["Sp"] if "Sp" in operation.axes else []),
        )
        requests, rows, prefill, longest = (symbol(name) for name in ("R", "S", "Tp", "Sq"))
        uneven = normal(requests * (symbol("Sd") + symbol("Sx")) / rows)
        coordinates = (requests, rows / requests, 1 + prefill, 1 + longest, uneven, 1 + _APART * symbol("M"))
    else:
        names = operation.axes
        coordinates = tuple(symbol(name) for name in names)
        if operation.kind is Kind.MOE:
            coordinates = (symbol("A"), symbol("T") / symbol("A"))
        count, chosen = _integer(operation, "experts"), _integer(operation, "top_k")
        if operation.kind is Kind.MOE and count is not None and chosen is not None:
            sources = int(evaluate(operation.operands[0].shape[0], {"T": 1}))
            mixture = Mixture(count, chosen, _integer(operation, "local_experts") or count, sources)
    unknown = {str(s) for s in flops.free_symbols | bytes_.free_symbols} - set(names)
    if unknown:
        raise FitError(
            f"{operation.name}: its cost depends on {', '.join(sorted(unknown))}, its points give {', '.join(names)}"
        )
    return Subject(
        operation.signature,
        operation.name,
        operation.kind,
        flops,
        bytes_,
        names,
        coordinates,
        window,
        mixture,
        _split(operation),
    )


def _split(operation: Operation) -> int | None:
    pairs, heads = backend_of(operation.attr("backend")).split_pairs, _integer(operation, "kv_heads")
    return None if pairs is None or heads is None else pairs // heads


def _integer(operation: Operation, name: str) -> int | None:
    value = operation.attr(name)
    return int(value) if isinstance(value, sympy.Integer) else None


def host_subject(signature: str, observations: Sequence[Observation] = ()) -> Subject:
    """The subject of a part of host time (us over its axes).

    Args:
        observations: its points; an axis of `OPTIONAL_AXES` that none of them has is left out.

    Raises:
        FitError: there is no such part.
    """
    part = part_of(signature)
    if part is None:
        raise FitError(f"{signature}: no work of the host; expected one of {', '.join(host_parts())}")
    given = {name for each in observations for name, _ in each.sizes}
    zero = cast(Expr, sympy.Integer(0))
    names = tuple(name for name in part.axes if name not in OPTIONAL_AXES or name in given)
    return Subject(signature, signature, None, zero, zero, names, tuple(normal(symbol(name)) for name in names))
