"""Coefficients of simulators whose formulas are fixed: least-squares projections of step times, with their error.

xPyD-sim 0.5.0 (profile YAML) and simdistserve of DistServe (profiler JSON), both in ms.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from dooly.adapters.grid import Limits, Outside, doubling, step_ms
from dooly.batch import Batch
from dooly.files import write_text
from dooly.predict import SavedModel

__all__ = ["Column", "Projection", "decode_shapes", "write_distserve", "write_xpyd"]

Column = NDArray[np.float64]


@dataclass(frozen=True)
class Projection:
    """A formula made to follow step times.

    Attributes:
        name: what it stands for.
        coefficients: in the order of the formula's terms.
        mean_error, worst_error: of the formula against step times, fractions; the worst with its sign.
        points: steps.
    """

    name: str
    coefficients: tuple[float, ...]
    mean_error: float
    worst_error: float
    points: int

    @classmethod
    def of(cls, name: str, terms: Column, times: Column, *, positive: bool = False) -> "Projection":
        """Least squares of the relative error.

        Args:
            terms: float64[points, terms]; a term that is zero everywhere gets the coefficient 0.
            times: float64[points].
            positive: no coefficient may be below zero.
        """
        weighted = terms / times[:, None]
        scale = np.abs(weighted).max(axis=0)
        scale[scale == 0] = 1.0
        scaled, ones = weighted / scale, np.ones(len(times))
        found = (nnls(scaled, ones)[0] if positive else np.linalg.lstsq(scaled, ones, rcond=None)[0]) / scale
        errors = terms @ found / times - 1
        return cls(
            name,
            tuple(map(float, found)),
            float(np.abs(errors).mean()),
            float(errors[np.abs(errors).argmax()]),
            len(times),
        )

    def __str__(self) -> str:
        return (
            f"{self.name}: {100 * self.mean_error:.1f} % mean, {100 * self.worst_error:+.1f} % worst error "
            f"over {self.points} steps"
        )


def decode_shapes(limits: Limits) -> list[tuple[int, int]]:
    """(requests, context of at least 16 tokens) of steps in which all decode."""
    return [(n, context) for n in doubling(limits.requests) for context in doubling(limits.context) if context >= 16]


def _decode_ms(model: SavedModel, pairs: list[tuple[int, int]], outside: Outside) -> Column:
    return step_ms(model, [Batch.of(*[(1, context - 1)] * n) for n, context in pairs], outside)


def write_xpyd(model: SavedModel, path: Path, limits: Limits) -> tuple[Outside, list[Projection]]:
    """Write a profile: prefill a square polynomial in tokens (highest power first, as numpy takes it), decode
    ``c0 + c1*b + c2*x + c3*b*x + c4*b^2 + c5*x^2`` over batch size b and context x.

    The text is JSON, which is YAML too.  KV transfer is not predicted, so the section is left out.

    Raises:
        PredictError: the model is a pipeline stage.
    """
    model.check_whole("xPyD-sim")
    outside = Outside()
    tokens = np.array(doubling(limits.tokens), dtype=np.float64)
    prefill = Projection.of(
        "prefill",
        np.stack([tokens**2, tokens, np.ones_like(tokens)], axis=1),
        step_ms(model, [Batch.of((int(n), 0)) for n in tokens], outside),
    )
    pairs = decode_shapes(limits)
    b, x = np.array(pairs, dtype=np.float64).T
    decode = Projection.of(
        "decode",
        np.stack([np.ones_like(b), b, x, b * x, b**2, x**2], axis=1),
        _decode_ms(model, pairs, outside),
    )
    _write(path, {each.name: {"coefficients": each.coefficients} for each in (prefill, decode)}, [prefill, decode])
    return outside, [prefill, decode]


_SMALL = 95
"""Batch size from which simdistserve takes the coefficients of large batches."""


def write_distserve(model: SavedModel, path: Path, limits: Limits, name: str) -> tuple[Outside, list[Projection]]:
    """Write a profile: prefill ``a + b*tokens + c*sum of squared prompt lengths``, decode ``a + b*cached tokens +
    c*requests``, once for batches below 95 and once for larger ones.

    The simulator adds 1 ms to each prefill; `a` has that taken off.

    Raises:
        PredictError: the model is a pipeline stage.
    """
    model.check_whole("DistServe")
    outside = Outside()
    shapes = [(n, count) for n in doubling(limits.tokens) for count in (1, 2, 4, 8) if n * count <= limits.tokens]
    n, count = np.array(shapes, dtype=np.float64).T
    prefill = Projection.of(
        "prefill",
        np.stack([np.ones_like(n), n * count, n**2 * count], axis=1),
        step_ms(model, [Batch.of(*[(size, 0)] * copies) for size, copies in shapes], outside),
    )
    pairs = decode_shapes(limits)
    small = [pair for pair in pairs if pair[0] < _SMALL]
    large = [pair for pair in pairs if pair[0] >= _SMALL] or small
    halves: list[Projection] = []
    for key, chosen in (("decoding_smallbs", small), ("decoding_largebs", large)):
        r, x = np.array(chosen, dtype=np.float64).T
        terms = np.stack([np.ones_like(r), r * x, r], axis=1)
        halves.append(Projection.of(key, terms, _decode_ms(model, chosen, outside)))
    a, b, c = prefill.coefficients
    content = {
        "decoding_large_small_bs_threshold": _SMALL,
        "prefill": [a - 1, b, c],
        **{half.name: half.coefficients for half in halves},
    }
    _write(path, {name: {str(model.tensor_parallel): content}}, [prefill, *halves])
    return outside, [prefill, *halves]


def _write(path: Path, content: dict[str, object], projections: list[Projection]) -> None:
    """The errors are kept in the file, under a key that the simulators do not read."""
    write_text(path, json.dumps({**content, "projection": [asdict(each) for each in projections]}, indent=1) + "\n")
