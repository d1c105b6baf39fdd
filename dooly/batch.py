"""The work of one engine step: the new and the cached tokens of each request, and what follows from them."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Literal, NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from dooly.errors import PredictError

__all__ = [
    "MODES",
    "MOST_CACHED",
    "MOST_REQUESTS",
    "MOST_TOKENS",
    "TILE",
    "Batch",
    "BatchColumns",
    "GraphMode",
    "StepBatch",
    "StepClass",
    "StepCost",
]

StepClass = Literal["decode", "prefill", "mixed"]
Column = NDArray[np.float64]

_REQUEST = re.compile(r"(\d{1,9}):(\d{1,9})(?:x(\d{1,6}))?", re.ASCII)

TILE = 128
"""Queries that an attention kernel works on together."""

MOST_TOKENS = 2**20
"""New tokens of one step, at most: far beyond any engine, and sums over a step are exact as floats."""
MOST_REQUESTS = 2**16
"""Requests of one step, at most, likewise."""
MOST_CACHED = 2**27
"""Cached tokens of one request, at most, likewise."""

GraphMode = Literal["FULL", "PIECEWISE", "NONE"]
MODES: tuple[GraphMode, ...] = ("FULL", "PIECEWISE", "NONE")
"""The whole step as one CUDA graph; the pieces between attention operations as graphs; kernels launched one by one."""


class StepBatch(Protocol):
    """A step's work, as far as its time depends on it: a `Batch`, or sums that a simulation keeps up."""

    @property
    def requests(self) -> tuple[tuple[int, int], ...]:
        """(new tokens, tokens already cached) of each request."""
        ...

    @property
    def count(self) -> int:
        """Requests, R."""
        ...

    @property
    def tokens(self) -> int:
        """New tokens, T."""
        ...

    @property
    def logits(self) -> int:
        """Rows whose logits are computed, L."""
        ...

    def attention(self, window: int | None = None) -> dict[str, int]:
        """Sums of `Batch.attention`."""
        ...


@dataclass(frozen=True)
class Batch:
    """One step.

    Attributes:
        requests: (new tokens q >= 1, tokens already cached c >= 0) of each request; at least one request.
        logits: rows whose logits are computed, 0 .. new tokens of the step.

    Raises:
        PredictError: a request or `logits` is outside these bounds.
    """

    requests: tuple[tuple[int, int], ...]
    logits: int
    _tokens: int = field(init=False, repr=False, compare=False)
    _sums: dict[int | None, dict[str, int]] = field(
        init=False, repr=False, compare=False, default_factory=dict[int | None, dict[str, int]]
    )

    def __post_init__(self) -> None:
        if not self.requests:
            raise PredictError("batch: no requests; a step needs at least one")
        new, cached = zip(*self.requests, strict=True)
        if min(new) < 1 or min(cached) < 0:
            at = next(i for i, (q, c) in enumerate(self.requests) if q < 1 or c < 0)
            q, c = self.requests[at]
            raise PredictError(
                f"batch: request {at} has {q} new and {c} cached tokens; expected new >= 1 and cached >= 0"
            )
        tokens = sum(new)
        _check_most("new tokens in one step", tokens, MOST_TOKENS)
        _check_most("cached tokens of one request", max(cached), MOST_CACHED)
        if not 0 <= self.logits <= tokens:
            raise PredictError(
                f"batch: {self.logits} rows of logits; expected 0 to {tokens}, the new tokens of the step"
            )
        object.__setattr__(self, "_tokens", tokens)

    @classmethod
    def of(cls, *requests: tuple[int, int], logits: int | None = None) -> "Batch":
        """A batch that computes logits for one row of each request unless told otherwise.

        >>> Batch.of((512, 0), (1, 100)).kind
        'mixed'
        """
        return cls(requests, len(requests) if logits is None else logits)

    @classmethod
    def alike(cls, rows: Iterable[tuple[int, int, int]]) -> "Batch":
        """A batch of rows (new, cached, how many requests alike), with logits for one row of each request.

        >>> Batch.alike([(128, 0, 1), (1, 512, 2)]).requests
        ((128, 0), (1, 512), (1, 512))
        """
        listed = list(rows)
        _check_most("requests in one step", sum(n for _, _, n in listed), MOST_REQUESTS)
        return cls.of(*chain.from_iterable([(q, c)] * n for q, c, n in listed))

    @classmethod
    def parse(cls, text: str) -> "Batch":
        """From ``NEW:CACHED[xN],...``: requests with so many new and cached tokens, N alike.

        >>> Batch.parse("128:0,1:512x2").requests
        ((128, 0), (1, 512), (1, 512))

        Raises:
            PredictError: the text is something else.
        """
        rows: list[tuple[int, int, int]] = []
        for part in text.split(","):
            match = _REQUEST.fullmatch(part.strip())
            if match is None:
                raise PredictError(f"--batch: found {part!r}; expected NEW:CACHED or NEW:CACHEDxN, e.g. 128:0,1:512x7")
            rows.append((int(match[1]), int(match[2]), int(match[3] or 1)))
        return cls.alike(rows)

    @classmethod
    def from_point(cls, point: Mapping[str, object] | str) -> "Batch":
        """From the database's form ``{"requests": [[q, c, n], ...]}``, each row n requests alike.

        Raises:
            PredictError: not that form.
        """
        try:
            content = json.loads(point) if isinstance(point, str) else point
            listed = cast("list[tuple[int, int, int]]", content["requests"])
            rows = [(int(q), int(c), int(n)) for q, c, n in listed]
            if any(n < 1 for _, _, n in rows) or rows != [tuple(row) for row in listed]:
                raise ValueError("not whole numbers, or none alike")
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            raise PredictError(
                f'batch: expected {{"requests": [[new, cached, alike], ...]}}, found {str(point)[:80]}'
            ) from error
        return cls.alike(rows)

    def point(self) -> dict[str, list[list[int]]]:
        """The database's form: sorted ``[new, cached, alike]``; forgets the order of the requests and `logits`.

        >>> Batch.of((1, 9), (8, 0), (1, 9)).point()
        {'requests': [[1, 9, 2], [8, 0, 1]]}
        """
        alike: dict[tuple[int, int], int] = {}
        for request in self.requests:
            alike[request] = alike.get(request, 0) + 1
        return {"requests": [[q, c, alike[q, c]] for q, c in sorted(alike)]}

    @property
    def count(self) -> int:
        """Requests, R."""
        return len(self.requests)

    @property
    def tokens(self) -> int:
        """New tokens of the step, T."""
        return self._tokens

    @property
    def kind(self) -> StepClass:
        """Class of the step.

        A request *decodes* when it adds one token to a cached context (q = 1, c > 0), and *prefills* otherwise: more
        than one new token, or nothing cached.  The last chunk of a prompt counts as decoding when it is one token long:
        it is the same work.  "decode" and "prefill" hold for all requests of the step, else it is "mixed".
        """
        decodes = sum(1 for q, c in self.requests if q == 1 and c > 0)
        if decodes == len(self.requests):
            return "decode"
        return "mixed" if decodes else "prefill"

    def symbols(self, window: int | None = None) -> dict[str, int]:
        """Values of the request symbols.

        Args:
            window: attention looks back over this many tokens, itself included; None for all.

        Returns:
            T tokens, R requests, L rows of logits, S KV rows read: sum of c + q, or of min(c + q, window + q - 1),
            P attended (query, key) pairs: query j of a request (1-based) sees c + j keys, or min(c + j, window).
        """
        values = self.attention(window)
        return {"T": self.tokens, "R": len(self.requests), "L": self.logits, "S": values["S"], "P": values["P"]}

    def attention(self, window: int | None = None) -> dict[str, int]:
        """All symbols that a formula of attention may use: T, R, S, P as in `symbols`, and

        Rp, Tp, Sp, Pp: R, T, S and P of the requests with more than one new token; of those, Sq: rows of the one with
        most, Pt: pairs if the new tokens of each filled whole tiles of `TILE`, M: 1 if there is one, else 0.
        Sx: rows of the request with the most, whichever, if there is one; Sd: the same if there is none; else 0.
        """
        found = self._sums.get(window)
        if found is None:
            found = self._sums[window] = self._add_up(window)
        return found

    def _add_up(self, window: int | None) -> dict[str, int]:
        count, tokens = len(self.requests), self.tokens
        if tokens == count:  # one new token each: a query sees exactly the rows that are read
            seen = [c for _, c in self.requests]
            total, most = sum(seen) + count, max(seen) + 1
            if window is not None and most > window:
                total, most = sum(min(c + 1, window) for c in seen), window
            whole = {"T": tokens, "R": count, "S": total, "P": total, "Sd": most, "Sx": 0}
            return {**whole, "Rp": 0, "Tp": 0, "Sp": 0, "Pp": 0, "Sq": 0, "Pt": 0, "M": 0}
        rows = pairs = most = 0
        prefills = prefill_tokens = prefill_rows = prefill_pairs = prefill_most = tiled = 0
        for q, c in self.requests:
            if window is None or c + q <= window:
                seen_rows, seen_pairs = c + q, q * c + q * (q + 1) // 2
            else:
                growing = min(max(window - c, 0), q)
                seen_rows = min(c + q, window + q - 1)
                seen_pairs = growing * c + growing * (growing + 1) // 2 + (q - growing) * window
            rows, pairs, most = rows + seen_rows, pairs + seen_pairs, max(most, seen_rows)
            if q > 1:
                prefills += 1
                prefill_tokens += q
                prefill_rows += seen_rows
                prefill_pairs += seen_pairs
                prefill_most = max(prefill_most, seen_rows)
                tiled += seen_pairs + seen_pairs * (-q % TILE) // q
        whole = {"T": tokens, "R": count, "S": rows, "P": pairs, "Sd": 0, "Sx": most, "M": 1}
        whole |= {"Rp": prefills, "Tp": prefill_tokens, "Sp": prefill_rows, "Pp": prefill_pairs}
        return {**whole, "Sq": prefill_most, "Pt": tiled}


def _check_most(what: str, count: int, most: int) -> None:
    if count > most:
        raise PredictError(f"batch: {count:,d} {what}; the limit is {most:,d}")


@dataclass(frozen=True, eq=False)
class BatchColumns:
    """Many batches as flat arrays: request i of batch b is at ``starts[b] + i``.

    Attributes:
        new, cached: int64[requests of all batches].
        starts: int64[batches], ascending from 0, no batch empty.
        logits: int64[batches].
    """

    new: NDArray[np.int64]
    cached: NDArray[np.int64]
    starts: NDArray[np.int64]
    logits: NDArray[np.int64]

    @classmethod
    def of(cls, batches: Sequence[Batch]) -> "BatchColumns":
        """From batches, at least one."""
        counts = np.fromiter((len(batch.requests) for batch in batches), np.int64, len(batches))
        flat: Iterable[int] = chain.from_iterable(chain.from_iterable(batch.requests for batch in batches))
        pairs = np.fromiter(flat, np.int64, 2 * int(counts.sum())).reshape(-1, 2)
        logits = np.fromiter((batch.logits for batch in batches), np.int64, len(batches))
        return cls(
            np.ascontiguousarray(pairs[:, 0]), np.ascontiguousarray(pairs[:, 1]), np.cumsum(counts) - counts, logits
        )

    def __len__(self) -> int:
        return len(self.starts)

    @cached_property
    def tokens(self) -> NDArray[np.int64]:
        """New tokens of each batch, T."""
        return cast("NDArray[np.int64]", np.add.reduceat(self.new, self.starts))

    @cached_property
    def prompts(self) -> NDArray[np.int64]:
        """Requests with more than one new token of each batch, Rp."""
        return cast("NDArray[np.int64]", np.add.reduceat((self.new > 1).astype(np.int64), self.starts))

    def attention(self, window: int | None = None) -> dict[str, Column]:
        """`Batch.attention` for each batch, float64[batches] each."""
        new, cached, starts = self.new, self.cached, self.starts
        if window is None:
            rows = cached + new
            pairs = new * cached + new * (new + 1) // 2
        else:
            rows = np.minimum(cached + new, window + new - 1)
            growing = np.clip(window - cached, 0, new)
            pairs = growing * cached + growing * (growing + 1) // 2 + (new - growing) * window
        columns = {
            "T": self.tokens,
            "R": np.diff(starts, append=len(new)),
            "S": np.add.reduceat(rows, starts),
            "P": np.add.reduceat(pairs, starts),
        }
        several = np.flatnonzero(new > 1)
        batch, count = np.searchsorted(starts, several, side="right") - 1, len(starts)
        tokens, seen_rows, seen_pairs = new[several], rows[several], pairs[several]
        tiled = seen_pairs + seen_pairs * (-tokens % TILE) // tokens
        prefill = {"Tp": tokens, "Sp": seen_rows, "Pp": seen_pairs, "Pt": tiled}
        columns |= {name: np.bincount(batch, each, count) for name, each in prefill.items()}
        columns["Rp"] = self.prompts
        columns["Sq"] = np.zeros(count, np.int64)
        np.maximum.at(columns["Sq"], batch, seen_rows)
        longest, prefills = np.maximum.reduceat(rows, starts), columns["Tp"] > 0
        columns |= {"M": prefills, "Sd": np.where(prefills, 0, longest), "Sx": np.where(prefills, longest, 0)}
        return {name: column.astype(np.float64) for name, column in columns.items()}

    def symbols(self, window: int | None = None) -> dict[str, Column]:
        """`Batch.symbols` for each batch, float64[batches] each."""
        columns = self.attention(window)
        return {
            "T": columns["T"],
            "R": columns["R"],
            "L": self.logits.astype(np.float64),
            "S": columns["S"],
            "P": columns["P"],
        }


class StepCost(NamedTuple):
    """Time of one step, us.

    Attributes:
        host_before_us: scheduling and input preparation, before the device has work.
        device_us: the model's operations, on a CPU with the dispatch between them.
        host_after_us: sampling and bookkeeping after the results are there.
        total_us: from the start of the step to its end, with synchronous scheduling:
            ``host_before + max(launch, lead + device) + host_after``.
        extrapolated: some operation was asked outside the sizes that were measured.
        launch_us: the host is busy for so long queueing the step's kernels, while the device works through them.
        lead_us: until a device that is idle when the model is called starts.
        between_us: until a device that is still at the step before begins with this one: the engine copies its inputs.
        plan_us: last part of `host_before_us`, for which the host waits until the device has done the step before; 0
            where nothing waits.
        work_us: of a step that can reach the device's power limit, what its operations take at full clocks;
            `device_us` is what the limit makes of that from a rest on.  0 of other steps, and where none is known.
    """

    host_before_us: float
    device_us: float
    host_after_us: float
    total_us: float
    extrapolated: bool = False
    launch_us: float = 0.0
    lead_us: float = 0.0
    between_us: float = 0.0
    plan_us: float = 0.0
    work_us: float = 0.0

    def span_us(self, *, idle: bool) -> float:
        """From calling the model to the end of its last kernel.

        Args:
            idle: the device had nothing else to do when the model was called.
        """
        return max(self.launch_us, self.device_us + (self.lead_us if idle else 0.0))
