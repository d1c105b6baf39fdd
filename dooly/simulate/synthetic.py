"""Synthetic traces: tables of quantiles fitted to a real trace, and requests drawn from them.

A published trace cannot always be shipped; a table of its quantiles can, and requests drawn from the tables behave
alike.  Kept are gaps between arrivals (none for a trace of lengths alone); prompt lengths; and by band of prompt
lengths (bands of equal numbers of requests, because in real traces the lengths depend on each other in no simple way)
output lengths and, of a trace with prefix ids, how many leading blocks a prompt shares with an earlier one; and how far
back the latest such request is.

What the tables do not keep: slow changes of the arrival rate over minutes, and order among requests.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import pairwise, repeat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dooly.errors import TraceError
from dooly.files import write_text
from dooly.simulate.trace import PREFIX_BLOCK, Trace, TraceRequest

__all__ = ["SHIPPED", "TraceFit", "fit_trace", "read_fit", "sample_trace", "shipped_trace", "write_fit"]

Floats = NDArray[np.float64]

BANDS = 16
FINE = (*np.linspace(0, 0.984375, 64).tolist(), 0.99, 0.995, 0.999, 1.0)
COARSE = (*np.linspace(0, 0.9375, 16).tolist(), 0.98, 1.0)


@dataclass(frozen=True)
class TraceFit:
    """Quantile tables of a trace.

    Attributes:
        source: the trace that was fitted.
        requests: how many requests it had.
        gap_s: seconds between arrivals, at the probabilities `FINE`.
        prompt_tokens: prompt lengths, at the probabilities `FINE`.
        band_edges: prompt lengths between the bands, ascending, one less than there are bands.
        output_tokens: one row per band of prompt lengths, each at the probabilities `COARSE`.
        shared_blocks: likewise the leading blocks that a prompt shares with an earlier one, at `FINE`; empty without
            prefix ids.
        distance: requests back to the latest that shares them, where there are two or more, at `FINE`.

    Raises:
        TraceError: a table has the wrong size, or falls where it must rise.
    """

    source: str
    requests: int
    gap_s: tuple[float, ...]
    prompt_tokens: tuple[float, ...]
    band_edges: tuple[float, ...]
    output_tokens: tuple[tuple[float, ...], ...]
    shared_blocks: tuple[tuple[float, ...], ...] = ()
    distance: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        tables = [("prompt_tokens", self.prompt_tokens, len(FINE))]
        tables += [("gap_s", self.gap_s, len(FINE))] if self.gap_s else []
        tables += [("distance", self.distance, len(FINE))] if self.shared_blocks else []
        tables += [(f"shared_blocks[{band}]", row, len(FINE)) for band, row in enumerate(self.shared_blocks)]
        tables += [(f"output_tokens[{band}]", row, len(COARSE)) for band, row in enumerate(self.output_tokens)]
        tables += [("band_edges", self.band_edges, len(self.output_tokens) - 1)]
        for name, table, size in tables:
            if len(table) != size:
                raise TraceError(f"fit of {self.source}: {name} has {len(table)} entries; expected {size}")
            if any(later < earlier for earlier, later in pairwise(table)):
                raise TraceError(f"fit of {self.source}: {name} falls; quantiles must rise")
        if self.shared_blocks and len(self.shared_blocks) != len(self.output_tokens):
            raise TraceError(f"fit of {self.source}: shared_blocks has another number of bands than output_tokens")


def fit_trace(trace: Trace) -> TraceFit:
    """Reduce a trace to its quantile tables.

    Raises:
        TraceError: fewer than 10 requests per band.
    """
    if len(trace) < 10 * BANDS:
        raise TraceError(f"{trace.name}: {len(trace)} requests are too few to fit; at least {10 * BANDS} are needed")
    arrival = np.array([r.arrival_s for r in trace.requests])
    prompt = np.array([r.prompt_tokens for r in trace.requests], dtype=np.float64)
    output = np.array([r.output_tokens for r in trace.requests], dtype=np.float64)
    edges: Floats = np.unique(np.quantile(prompt, np.arange(1, BANDS) / BANDS))
    bands = np.searchsorted(edges, prompt, side="left")
    kept = [band for band in range(len(edges) + 1) if bool((bands == band).any())]
    shared, back = _sharing(trace)
    prefixed = any(request.prefix for request in trace.requests)
    return TraceFit(
        source=Path(trace.name).name,
        requests=len(trace),
        gap_s=_table(np.diff(arrival), FINE, 7) if trace.duration_s > 0 else (),
        prompt_tokens=_table(prompt, FINE, 1),
        band_edges=tuple(float(edges[band]) for band in kept[:-1]),
        output_tokens=tuple(_table(output[bands == band], COARSE, 1) for band in kept),
        shared_blocks=tuple(_table(shared[bands == band], FINE, 1) for band in kept) if prefixed else (),
        distance=_table(back[shared > 1] if bool((shared > 1).any()) else np.ones(1), FINE, 1) if prefixed else (),
    )


def _sharing(trace: Trace) -> tuple[Floats, Floats]:
    """Return the leading blocks of each request that an earlier one has too, and how many requests ago."""
    latest: dict[tuple[int, int], int] = {}
    shared, back = np.zeros(len(trace)), np.zeros(len(trace))
    for index, request in enumerate(trace.requests):
        blocks = list(enumerate(request.prefix))
        for block in blocks:
            if block not in latest:
                break
            shared[index] += 1
            back[index] = index - latest[block]
        latest.update(dict.fromkeys(blocks, index))
    return shared, back


def _table(values: Floats, probabilities: tuple[float, ...], digits: int) -> tuple[float, ...]:
    """Quantiles; the last is not the maximum but such that the mean of the values above the last but one is kept."""
    *inner, last = (float(value) for value in np.quantile(values, probabilities))
    above = values[values > inner[-1]]
    last = max(inner[-1], 2 * float(above.mean()) - inner[-1]) if len(above) else last
    return tuple(round(value, digits) for value in (*inner, last))


def sample_trace(fit: TraceFit, count: int, *, seed: int) -> Trace:
    """Draw `count` requests.  The same fit, count and seed give the same trace.

    Each quantity is drawn by strata (one value from each of `count` equal slices of probability, in random order), so
    that even a short sample has the quantiles of the tables.
    """
    rng = np.random.default_rng(seed)
    gap = np.interp(_strata(rng, count), FINE, fit.gap_s) if fit.gap_s else np.zeros(count)
    prompt = np.interp(_strata(rng, count), FINE, fit.prompt_tokens)
    bands = np.searchsorted(np.array(fit.band_edges), prompt, side="left")
    output = np.zeros(count)
    for band, table in enumerate(fit.output_tokens):
        members = np.flatnonzero(bands == band)
        output[members] = np.interp(_strata(rng, len(members)), COARSE, table)
    arrival = np.cumsum(gap) - gap[0]
    lengths = [max(1, round(float(value))) for value in prompt]
    prefixes: Iterable[tuple[int, ...]] = _prefixes(fit, rng, lengths, bands) if fit.shared_blocks else repeat(())
    requests = tuple(
        TraceRequest(round(float(a), 6), p, max(1, round(float(o))), prefix)
        for a, p, o, prefix in zip(arrival, lengths, output, prefixes)
    )
    return Trace(f"synthetic({fit.source}, seed {seed})", requests)


def _prefixes(
    fit: TraceFit, rng: np.random.Generator, lengths: list[int], bands: NDArray[np.intp]
) -> list[tuple[int, ...]]:
    """Prefix ids: as many leading blocks as drawn of an earlier request, about as far back as drawn; then new ids.

    A request is taken up once, as a conversation goes on, unless no other is long enough.
    """
    count = len(lengths)
    shared, back = np.zeros(count), np.interp(_strata(rng, count), FINE, fit.distance)
    for band, table in enumerate(fit.shared_blocks):
        members = np.flatnonzero(bands == band)
        shared[members] = np.interp(_strata(rng, len(members)), FINE, table)
    found: list[tuple[int, ...]] = []
    continued: set[int] = set()
    fresh = 0
    for index, length in enumerate(lengths):
        blocks = -(-length // PREFIX_BLOCK)
        wanted = min(round(float(shared[index])), blocks)
        beginning: tuple[int, ...] = ()
        if wanted and index:
            start = max(0, index - max(1, round(float(back[index])))) if wanted > 1 else index - 1
            long_enough = [at for at in range(index) if len(found[at]) >= wanted]
            nearest = sorted(long_enough, key=lambda at: (wanted > 1 and at in continued, abs(at - start)))
            if nearest:
                beginning = found[nearest[0]][:wanted]
                continued.add(nearest[0])
        new = blocks - len(beginning)
        found.append((*beginning, *range(fresh, fresh + new)))
        fresh += new
    return found


def _strata(rng: np.random.Generator, count: int) -> Floats:
    """`count` probabilities, one from each of `count` equal slices, in random order.

    Made from uniform draws alone, whose stream NumPy keeps from version to version.
    """
    order = np.argsort(rng.random(count), kind="stable")
    return (order + rng.random(count)) / max(count, 1)


def write_fit(fit: TraceFit, path: str | Path) -> None:
    """Write the tables as JSON, one table a line.

    Raises:
        DoolyError: the file cannot be written.
    """
    lines = (f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in asdict(fit).items())
    write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")


def read_fit(path: str | Path) -> TraceFit:
    """Read tables written by `write_fit`.

    Raises:
        TraceError: the file is missing, is not JSON or does not hold the tables.
    """
    try:
        fields: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
        return TraceFit(
            source=str(fields["source"]),
            requests=int(fields["requests"]),
            gap_s=tuple(map(float, fields["gap_s"])),
            prompt_tokens=tuple(map(float, fields["prompt_tokens"])),
            band_edges=tuple(map(float, fields["band_edges"])),
            output_tokens=_rows(fields["output_tokens"]),
            shared_blocks=_rows(fields["shared_blocks"]),
            distance=tuple(map(float, fields["distance"])),
        )
    except OSError as error:
        raise TraceError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise TraceError(f"{path}: not a trace fit: {type(error).__name__} {error}") from error


def _rows(table: Any) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(map(float, row)) for row in table)


TRACES = Path(__file__).resolve().parent.parent / "traces"
SHIPPED = ("azure-code", "azure-conv", "mooncake", "arxiv")
"""Names of the fits that come with the package."""


def shipped_trace(name: str, count: int = 1000, *, seed: int = 2023) -> Trace:
    """Draw from a fit that comes with the package.

    Raises:
        TraceError: no such fit.
    """
    if name not in SHIPPED:
        raise TraceError(f"no shipped trace {name!r}; there are {', '.join(SHIPPED)}")
    return sample_trace(read_fit(TRACES / f"{name}.json"), count, seed=seed)
