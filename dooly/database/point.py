"""A point: one assignment of the request symbols of an operation, and what was measured there."""

import json
import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import cast

from dooly.database.latency import LESS, Latency, latency_of, undisturbed
from dooly.host import part_of

__all__ = ["Measurement", "Point", "Samples", "Status", "aside_from_json"]

MAX_SIZE = 2**53


class Status(StrEnum):
    """State of a point in the database.  Only `OK` counts as measured."""

    CLAIMED = "claimed"
    OK = "ok"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Point:
    """Request symbols of one call, in a canonical form.

    Two forms exist.  `sizes` names every axis of the operation, e.g. `{"T": 64}` or `{"A": 4, "T": 64}`; where
    experts are not hit alike also `M`, the tokens of the fullest one.  A stateful operation has `requests`
    instead: sorted triples (new tokens, tokens already cached, how many requests are alike).

    Raises:
        ValueError: both or neither form is given, a size is negative, or a request has no new token.
    """

    sizes: tuple[tuple[str, int], ...] = ()
    requests: tuple[tuple[int, int, int], ...] = ()

    def __post_init__(self) -> None:
        if bool(self.sizes) == bool(self.requests):
            raise ValueError("a point has either sizes or requests")
        if any(value < 0 for _, value in self.sizes):
            raise ValueError(f"a size is negative in {self.sizes}")
        if any(each > MAX_SIZE for each in (*dict(self.sizes).values(), *(n for row in self.requests for n in row))):
            raise ValueError(f"a size is above {MAX_SIZE}")
        if any(new < 1 or cached < 0 or alike < 1 for new, cached, alike in self.requests):
            raise ValueError(f"each request needs new >= 1, cached >= 0, alike >= 1: {self.requests}")

    @classmethod
    def of(cls, **sizes: int) -> "Point":
        """A stateless point from its axes."""
        return cls(sizes=tuple(sorted((name, int(value)) for name, value in sizes.items())))

    @classmethod
    def of_requests(cls, requests: Iterable[tuple[int, int]]) -> "Point":
        """A stateful point from (new, cached) pairs; order does not matter, equal pairs are counted."""
        counts: dict[tuple[int, int], int] = {}
        for new, cached in requests:
            counts[new, cached] = counts.get((new, cached), 0) + 1
        return cls(requests=tuple(sorted((new, cached, alike) for (new, cached), alike in counts.items())))

    @classmethod
    def from_json(cls, text: str) -> "Point":
        """Inverse of `json`.

        Raises:
            ValueError: the text is not a point.
        """
        value = json.loads(text)
        if not isinstance(value, dict):
            raise ValueError(f"a point must be a JSON object, found {text[:60]}")
        content: dict[str, object] = value
        requests = content.get("requests")
        if isinstance(requests, list):
            rows: list[list[int]] = requests
            return cls(requests=tuple(sorted((int(new), int(cached), int(alike)) for new, cached, alike in rows)))
        return cls.of(**{name: int(str(size)) for name, size in content.items()})

    @property
    def json(self) -> str:
        """Canonical text: the key of the point within its operation and environment."""
        value: Mapping[str, object] = {"requests": self.requests} if self.requests else dict(self.sizes)
        return json.dumps(value, separators=(",", ":"))

    @property
    def batch(self) -> tuple[tuple[int, int], ...]:
        """The (new, cached) pairs, one per request; empty for a stateless point."""
        return tuple((new, cached) for new, cached, alike in self.requests for _ in range(alike))

    @property
    def skewed(self) -> bool:
        """Whether the fullest expert is given: formulas, which speak of a router without favourites, leave it out."""
        return any(name == "M" for name, _ in self.sizes)

    @property
    def axes(self) -> dict[str, int]:
        """Numbers to sweep and fit over.

        Stateless: the sizes.  Stateful: T tokens, R requests, S KV rows read, P attended pairs (both without any
        window), C the longest context after the step; Tp, Sp and Pp are T, S and P of the requests with more than one
        new token.
        """
        if self.sizes:
            return dict(self.sizes)
        whole, prefill = _sums(self.requests), _sums([request for request in self.requests if request[0] > 1])
        return {
            **whole,
            "R": sum(alike for _, _, alike in self.requests),
            "C": max(new + cached for new, cached, _ in self.requests),
            **{f"{name}p": value for name, value in prefill.items()},
        }

    def __str__(self) -> str:
        if self.sizes:
            return " ".join(f"{name}={value}" for name, value in self.sizes)
        return " ".join(f"{alike}x({new} new, {cached} cached)" for new, cached, alike in self.requests)


def _sums(requests: Iterable[tuple[int, int, int]]) -> dict[str, int]:
    rows = [
        (new * alike, (new + cached) * alike, (new * cached + new * (new + 1) // 2) * alike)
        for new, cached, alike in requests
    ]
    return dict(zip("TSP", map(sum, zip(*rows, (0, 0, 0)))))


@dataclass(frozen=True)
class Samples:
    """Raw times of one point.  Nothing is summarized away.

    Fields:
        values_us: one time per sample, already divided by `loops`.
        warmups_us: times of the warm-up calls, kept apart.
        loops: calls per sample.
        aside: what was noted beside the samples, by name; names of times end in `_us`.
        clock_mhz, temperature_c: where the platform gives them.

    Raises:
        ValueError: a number is missing, infinite or NaN, or there is less than one loop.
    """

    values_us: tuple[float, ...]
    warmups_us: tuple[float, ...] = ()
    loops: int = 1
    aside: tuple[tuple[str, float], ...] = ()
    clock_mhz: float | None = None
    temperature_c: float | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.clock_mhz, self.temperature_c) if value is not None]
        for what, values in (
            ("samples", self.values_us),
            ("warm-ups", self.warmups_us),
            ("values aside", [value for _, value in self.aside]),
            ("clock and temperature", given),
        ):
            _check_finite(what, values)
        if type(self.loops) is not int or self.loops < 1:
            raise ValueError(f"{self.loops!r} loops; expected a whole number from 1")

    @property
    def undisturbed_us(self) -> tuple[float, ...]:
        """Samples that other processes did not slow down (`latency.undisturbed`)."""
        return undisturbed(self.values_us)


def _check_finite(what: str, values: Iterable[float]) -> None:
    try:
        sound = all(map(math.isfinite, values))
    except (TypeError, OverflowError):
        sound = False
    if not sound:
        raise ValueError(f"{what} must be finite numbers, found {str(values)[:60]}")


def aside_from_json(text: str) -> tuple[tuple[str, float], ...]:
    """`Samples.aside` from the JSON object that it is stored as.

    Raises:
        ValueError: the text is something else.
    """
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"what was noted aside must be a JSON object, found {text[:60]}")
    return tuple(cast(dict[str, float], value).items())


@dataclass(frozen=True)
class Measurement:
    """One row of the table of points, as read back.

    Raises:
        ValueError: a time is missing, infinite or NaN.
    """

    operation: str
    environment: str
    point: Point
    status: Status
    reason: str | None
    samples: Samples = field(default_factory=lambda: Samples(()))
    started_s: float = 0.0
    finished_s: float | None = None

    def __post_init__(self) -> None:
        _check_finite("times", (self.started_s, self.finished_s or 0.0))

    @property
    def median_us(self) -> float:
        """Median of the raw samples.

        Raises:
            ValueError: the point was not measured.
        """
        if self.status is not Status.OK:
            raise ValueError(f"{self.point} of {self.operation} is {self.status}, it has no latency")
        return statistics.median(self.samples.values_us)

    @cached_property
    def latency(self) -> Latency:
        """Latency of the raw samples, as every table and every fit has it.

        Raises:
            ValueError: the point was not measured, or its samples do not say.
        """
        if self.status is not Status.OK:
            raise ValueError(f"{self.point} of {self.operation} is {self.status}, it has no latency")
        return latency_of(self.operation, self.samples.values_us, dict(self.samples.aside).get(LESS, 0.0))

    @property
    def derived(self) -> bool:
        """Whether the samples are no raw times: what an earlier release had left when it took a formula away."""
        part = part_of(self.operation)
        if part is None:
            return False
        return part.instead_of is not None or (part.difference and LESS not in dict(self.samples.aside))

    @property
    def latency_us(self) -> float:
        """`latency` without its spread (us)."""
        return self.latency.us

    @property
    def spread(self) -> float:
        """Interquartile range over the median: 0.02 reads "half of the samples lie within 2 %"."""
        values = self.samples.values_us
        if len(values) < 4:
            return (max(values) - min(values)) / self.median_us
        low, _, high = statistics.quantiles(values, n=4)
        return (high - low) / self.median_us

    @property
    def cost_s(self) -> float:
        """Wall seconds that taking this point cost, set-up included."""
        return 0.0 if self.finished_s is None else self.finished_s - self.started_s
