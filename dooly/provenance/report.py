"""The verdict on a model: how much of its graph is derived, and how much of that witnesses confirm."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from dooly.capture import Options, Parallel, capture_checked, check, load_engine
from dooly.capture.layers import can_thin, layer_kinds
from dooly.errors import CaptureError
from dooly.ir import Graph, origin_of
from dooly.provenance.compare import Comparison, Counterexample, Key
from dooly.provenance.lowered import compare_lowered, fused
from dooly.provenance.witness import Witness, original, witnesses

__all__ = ["Report", "verify_provenance"]

_REFUSALS = 40
"""Configurations in a row that the engine may refuse before a witness counts as impossible."""


@dataclass(frozen=True)
class Report:
    """What is known about the origin of every dimension of a model.

    Attributes:
        dimensions: of all results of all captured operations.
        derived: of those, how many are expressions over declared symbols, or constants, by symbolic execution.
        confirmed: of those, how many every witness agrees with, the one held out included.
        claims: dimensions, attributes and counts, of the captured graph and of what the passes made of it;
            claims_confirmed: how many of them no witness refutes.
        witnesses: values of the symbols in each: the model's own first, the one held out last.
        counterexamples: claims that a witness refutes.
        seconds: of all witnesses, without the capture.
    """

    model: str
    dimensions: int
    derived: int
    confirmed: int
    claims: int
    claims_confirmed: int
    witnesses: tuple[Mapping[str, int], ...]
    counterexamples: tuple[Counterexample, ...]
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether everything is derived and confirmed."""
        return not self.counterexamples and self.dimensions == self.derived == self.confirmed

    @property
    def fixed(self) -> tuple[str, ...]:
        """Symbols that have one value in all witnesses."""
        return tuple(name for name in self.witnesses[0] if len({values[name] for values in self.witnesses}) == 1)

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "fixed": list(self.fixed), "holds": self.holds}


def verify_provenance(
    model: str | Path,
    *,
    tp: int = 1,
    platform: str = "cpu",
    backend: str | None = None,
    graph: Graph | None = None,
    count: int = 4,
    seed: int = 0,
) -> Report:
    """Compare every dimension, attribute and count of a captured model with what the engine does in plain numbers.

    The first witness is the model's own configuration with all its layers; ``count`` more are random ones, of which
    the last is held out: it is drawn and compared after everything else.

    Args:
        model, tp, platform, backend: as for ``capture``.
        graph: the captured graph to check; captured here if not given.

    Raises:
        CaptureError: bad input, or a model that cannot be captured.
    """
    options = Options(Parallel(tp), platform, backend)
    name, config = check(model, options)
    load_engine(platform)
    if graph is None:
        (graph,) = capture_checked(name, config, options)
    start = time.perf_counter()
    every = list(_comparisons(name, config, options, graph, count, seed))
    if not any(comparison.counterexamples for comparison in every):  # else the passes would start from what is wrong
        lowered = fused(graph)
        for comparison in every:
            compare_lowered(lowered, comparison)
    held: list[set[Key]] = [comparison.confirmed for comparison in every]
    refuted = set[Key]().union(*(comparison.refuted for comparison in every))
    everywhere, claims = set[Key].intersection(*held), set[Key]().union(*held) | refuted
    symbols = frozenset(graph.config_values), frozenset(graph.request)
    dims = [dim for op in graph.ops if op.target != "input" for value in op.results for dim in value.type.shape]
    return Report(
        model=name,
        dimensions=len(dims),
        derived=sum(origin_of(dim, *symbols) is not None for dim in dims),
        confirmed=sum(key[0] == "dimension" for key in everywhere - refuted),
        claims=len(claims),
        claims_confirmed=len(claims - refuted),
        witnesses=tuple(comparison.witness.values for comparison in every),
        counterexamples=tuple(each for comparison in every for each in comparison.counterexamples),
        seconds=time.perf_counter() - start,
    )


def _comparisons(
    name: str, config: Mapping[str, Any], options: Options, graph: Graph, count: int, seed: int
) -> Iterator[Comparison]:
    from dooly.capture.frontend import derived
    from dooly.provenance.blackbox import observe

    def compared(witness: Witness) -> Comparison:
        seen = observe(
            witness.config,
            options=replace(options, parallel=witness.parallel),
            place=name,
            tokens=witness.tokens,
            rows=witness.rows,
        )
        return Comparison(graph, seen, witness)

    yield compared(original(config, options.parallel, graph))
    whole = {**derived(config), **config}
    drawn = witnesses(config, options.parallel, layer_kinds(whole), can_thin(whole), graph, seed)
    for _ in range(count):
        refusal: CaptureError | None = None
        for witness in islice(drawn, _REFUSALS):
            try:
                comparison = compared(witness)
            except CaptureError as error:
                refusal = error
                continue
            yield comparison
            break
        else:
            raise CaptureError(f"{name}: no witness of {_REFUSALS} is valid; the last: {refusal}")
