"""The verdict on a model: how much of its graph is derived, and how much of that witnesses confirm."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dooly.capture import PLATFORMS, Options, capture_checked, check, export_checked, load_engine
from dooly.capture.layers import layer_kinds
from dooly.capture.numbering import layers_of_graph, renumbered
from dooly.capture.stages import Stage, distinct_stages
from dooly.errors import CaptureError
from dooly.ir import Graph, origin_of
from dooly.provenance.compare import Comparison, Counterexample, Key
from dooly.provenance.lowered import compare_lowered, fused
from dooly.provenance.witness import ModelWitness, Witness, module_witnesses, original, witnesses

if TYPE_CHECKING:
    from torch.nn import Module

    from dooly.capture.export import Inputs

__all__ = ["Report", "verify_module", "verify_provenance"]

W = TypeVar("W", bound=Witness)

_LATENT = frozenset(("Dn", "Dr", "Dv", "Rkv"))
"""Sizes of latent attention: on GPUs the engine has kernels for those of DeepSeek alone."""

_REFUSALS = 40
"""Configurations in a row that the engine may refuse before a witness counts as impossible."""


@dataclass(frozen=True)
class Report:
    """The facts known about the origin of every dimension of a model.

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
    options: Options | None = None,
    *,
    exported: bool = False,
    graphs: Sequence[Graph] | None = None,
    count: int = 4,
    seed: int = 0,
) -> tuple[Report, ...]:
    """Compare every dimension, attribute and count of a captured model with what runs in plain numbers.

    The first witness is the model's own configuration with all its layers; ``count`` more are random ones, of which
    the last is held out: it is drawn and compared after everything else.

    Args:
        model, options: as for ``capture_stages``.
        exported: the model of ``transformers`` through ``torch.export``, as ``export_checked`` has it; no options.
        graphs: the captured graphs to check, one for each distinct pipeline stage; captured here if not given.

    Returns a report for each graph.

    Raises:
        CaptureError: bad input, or a model that cannot be captured.
    """
    options = Options() if options is None else options
    name, config = check(model, options)
    load_engine(options.platform)
    if graphs is None:
        graphs = (export_checked(name, config),) if exported else capture_checked(name, config, options)
    from dooly.capture.frontend import derived
    from dooly.provenance.blackbox import observe
    from dooly.provenance.exported import observe_transformer

    def compared(graph: Graph, stage: Stage, witness: ModelWitness) -> Comparison:
        seen = observe_transformer(witness, name) if exported else observe(witness, options, name)
        if further := witness.stage.start - stage.start:  # of the first layer of this stage
            graph = renumbered(graph, layers_of_graph(graph), lambda layer: layer + further)
        return Comparison(graph, seen, witness)

    whole = {**derived(config), **config}
    latent = PLATFORMS[options.platform].is_cuda and "kv_lora_rank" in config
    fixed = _LATENT if latent else frozenset[str]()
    reports: list[Report] = []
    for graph, stage in zip(graphs, distinct_stages(layer_kinds(whole), options.parallel.pp), strict=True):
        start = time.perf_counter()
        compare = functools.partial(compared, graph, stage)
        first = compare(original(config, options.parallel, stage, graph))
        drawn = witnesses(whole, options.parallel, stage, graph, seed, fixed)
        reports.append(_judged(graph, start, [first, *_valid(drawn, compare, count, name)]))
    return tuple(reports)


def verify_module(
    factory: Callable[[Mapping[str, int]], Module], graph: Graph, inputs: Inputs, *, count: int = 4, seed: int = 0
) -> Report:
    """The same of a graph of ``export_module``: the module at the values of ``graph``, and at random ones.

    Args:
        factory, inputs: as for ``export_module``.

    Raises:
        CaptureError: the module cannot be built from other values.
    """
    from dooly.provenance.exported import observe_module

    def compare(witness: Witness) -> Comparison:
        return Comparison(graph, observe_module(factory, witness.values, inputs, graph.name), witness)

    start = time.perf_counter()
    drawn = module_witnesses(graph, seed)
    first = compare(next(drawn))
    return _judged(graph, start, [first, *_valid(drawn, compare, count, graph.name)])


def _valid(drawn: Iterator[W], compare: Callable[[W], Comparison], count: int, name: str) -> Iterator[Comparison]:
    """Comparisons at ``count`` witnesses that can be built."""
    for _ in range(count):
        refusal = CaptureError("none obeys the facts of the graph")
        for witness in islice(drawn, _REFUSALS):
            try:
                comparison = compare(witness)
            except CaptureError as error:
                refusal = error
                continue
            yield comparison
            break
        else:
            raise CaptureError(f"{name}: no witness of {_REFUSALS} is valid; the last: {refusal}")


def _judged(graph: Graph, start: float, every: Sequence[Comparison]) -> Report:
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
        model=graph.name,
        dimensions=len(dims),
        derived=sum(origin_of(dim, *symbols) is not None for dim in dims),
        confirmed=sum(key[0] == "dimension" for key in everywhere - refuted),
        claims=len(claims),
        claims_confirmed=len(claims - refuted),
        witnesses=tuple(comparison.witness.values for comparison in every),
        counterexamples=tuple(each for comparison in every for each in comparison.counterexamples),
        seconds=time.perf_counter() - start,
    )
