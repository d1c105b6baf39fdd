"""Synthetic traces: tables of quantiles fitted to a real trace, and requests drawn from them.

A published trace cannot always be shipped; a table of its quantiles can, and requests drawn from the tables behave
alike.  Three tables are kept: gaps between arrivals; prompt lengths; and output lengths, one table per band of prompt
lengths (bands of equal numbers of requests), because in real traces the two depend on each other in no simple way.

What the tables do not keep: slow changes of the arrival rate over minutes, and order among requests.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dooly.errors import TraceError
from dooly.files import write_text
from dooly.simulate.trace import Trace, TraceRequest

__all__ = ["TraceFit", "fit_trace", "read_fit", "sample_trace", "write_fit"]

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

    Raises:
        TraceError: a table has the wrong size, or falls where it must rise.
    """

    source: str
    requests: int
    gap_s: tuple[float, ...]
    prompt_tokens: tuple[float, ...]
    band_edges: tuple[float, ...]
    output_tokens: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        tables = [("gap_s", self.gap_s, len(FINE)), ("prompt_tokens", self.prompt_tokens, len(FINE))]
        tables += [(f"output_tokens[{band}]", row, len(COARSE)) for band, row in enumerate(self.output_tokens)]
        tables += [("band_edges", self.band_edges, len(self.output_tokens) - 1)]
        for name, table, size in tables:
            if len(table) != size:
                raise TraceError(f"fit of {self.source}: {name} has {len(table)} entries; expected {size}")
            if any(later < earlier for earlier, later in pairwise(table)):
                raise TraceError(f"fit of {self.source}: {name} falls; quantiles must rise")


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
    return TraceFit(
        source=Path(trace.name).name,
        requests=len(trace),
        gap_s=_table(np.diff(arrival), FINE, 7),
        prompt_tokens=_table(prompt, FINE, 1),
        band_edges=tuple(float(edges[band]) for band in kept[:-1]),
        output_tokens=tuple(_table(output[bands == band], COARSE, 1) for band in kept),
    )


def _table(values: Floats, probabilities: tuple[float, ...], digits: int) -> tuple[float, ...]:
    return tuple(round(float(value), digits) for value in np.quantile(values, probabilities))


def sample_trace(fit: TraceFit, count: int, *, seed: int) -> Trace:
    """Draw `count` requests.  The same fit, count and seed give the same trace.

    Each quantity is drawn by strata (one value from each of `count` equal slices of probability, in random order), so
    that even a short sample has the quantiles of the tables.
    """
    rng = np.random.default_rng(seed)
    gap = np.interp(_strata(rng, count), FINE, fit.gap_s)
    prompt = np.interp(_strata(rng, count), FINE, fit.prompt_tokens)
    bands = np.searchsorted(np.array(fit.band_edges), prompt, side="left")
    output = np.zeros(count)
    for band, table in enumerate(fit.output_tokens):
        members = np.flatnonzero(bands == band)
        output[members] = np.interp(_strata(rng, len(members)), COARSE, table)
    arrival = np.cumsum(gap) - gap[0]
    requests = tuple(
        TraceRequest(round(float(a), 6), max(1, round(float(p))), max(1, round(float(o))))
        for a, p, o in zip(arrival, prompt, output, strict=True)
    )
    return Trace(f"synthetic({fit.source}, seed {seed})", requests)


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
            output_tokens=tuple(tuple(map(float, row)) for row in fields["output_tokens"]),
        )
    except OSError as error:
        raise TraceError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise TraceError(f"{path}: not a trace fit: {type(error).__name__} {error}") from error
