"""Records that the database gives back besides points: stored operations, domains, summaries."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dooly.database.environment import Environment, Fact
from dooly.database.point import Measurement, Point, Samples, Status, aside_from_json
from dooly.errors import DatabaseError, DoolyError
from dooly.ir import Operation, parse_program

if TYPE_CHECKING:
    from sqlalchemy import Row

__all__ = [
    "Differences",
    "Domain",
    "Record",
    "StoredOperation",
    "SummaryRow",
    "Times",
    "domain_of",
    "measurement_of",
    "nearest",
]

Differences = dict[str, tuple[Fact | None, Fact | None]]
"""Facts that differ between two environments, by name."""


@dataclass(frozen=True)
class Domain:
    """The ranges that the measured points of an operation span.

    Fields:
        ranges: axis -> (smallest, largest) over the measured points.
        points: how many were measured.
    """

    ranges: Mapping[str, tuple[int, int]]
    points: int

    def covers(self, axes: Mapping[str, int]) -> bool:
        """Whether each axis lies within the measured range."""
        ranges = self.ranges
        return all(name in ranges and ranges[name][0] <= n <= ranges[name][1] for name, n in axes.items())


@dataclass(frozen=True)
class StoredOperation:
    """An operation as stored: its signature, target and canonical text.

    Raises:
        ValueError: one of them is no text.
    """

    signature: str
    target: str
    text: str

    def __post_init__(self) -> None:
        for what in (self.signature, self.target, self.text):
            if not isinstance(what, str):  # pyright: ignore[reportUnnecessaryIsInstance]: a file may hold anything
                raise ValueError(f"signature, target and text of an operation must be texts, found {what!r}")

    def parsed(self) -> Operation:
        """The operation that the text says.

        Raises:
            DatabaseError: the text does not parse, or has another signature.
        """
        try:
            (operation,) = parse_program(self.text).operations
        except (DoolyError, ValueError) as error:
            told = str(error).partition("\n")[0]
            raise DatabaseError(f"{self.signature}: the text of this operation does not parse: {told}") from error
        if operation.signature != self.signature:
            raise DatabaseError(
                f"{self.signature}: its text has the signature {operation.signature}; another version wrote it"
            )
        return operation


@dataclass(frozen=True)
class Record:
    """One point with all that it belongs to: enough to store it elsewhere."""

    operation: StoredOperation
    environment: Environment
    measurement: Measurement


@dataclass(frozen=True)
class Times:
    """Published times of one operation in one environment: one for each point, and nothing of how it was taken.

    Attributes:
        points: canonical texts of the points; distinct.
        times_us: as many.
    """

    operation: StoredOperation
    environment: Environment
    points: Sequence[str]
    times_us: Sequence[float]


@dataclass(frozen=True)
class SummaryRow:
    """Points of one operation in one environment with one status, and what they cost to take."""

    environment: str
    signature: str
    target: str
    status: Status
    points: int
    cost_s: float

    def joined(self, other: "SummaryRow") -> "SummaryRow":
        """This row with the points of another one of the same environment, operation and status."""
        return replace(self, points=self.points + other.points, cost_s=self.cost_s + other.cost_s)


def nearest(environment: Environment, others: Iterable[Environment]) -> list[tuple[Environment, Differences]]:
    """Other environments and how they differ (asked for, stored), nearest first."""
    differing = [(other, environment.differences(other)) for other in others if other != environment]
    return sorted(differing, key=lambda pair: (len(pair[1]), pair[0].json))


def domain_of(measured: Sequence[Measurement]) -> Domain:
    """Ranges that measured points span; no ranges if there are none."""
    ranges: dict[str, tuple[int, int]] = {}
    for measurement in measured:
        for name, n in measurement.point.axes.items():
            low, high = ranges.get(name, (n, n))
            ranges[name] = min(low, n), max(high, n)
    return Domain(ranges, len(measured))


def measurement_of(row: "Row[tuple[object, ...]]", signature: str, environment: str) -> Measurement:
    """A row of the table of points."""
    samples = Samples(())
    if row.status == Status.OK:
        samples = Samples(
            values_us=tuple(json.loads(row.samples_us)),
            warmups_us=tuple(json.loads(row.warmups_us)),
            loops=row.loops,
            aside=aside_from_json(row.aside),
            clock_mhz=row.clock_mhz,
            temperature_c=row.temperature_c,
        )
    return Measurement(
        operation=signature,
        environment=environment,
        point=Point.from_json(row.point),
        status=Status(row.status),
        reason=row.reason,
        samples=samples,
        started_s=row.started_s,
        finished_s=row.finished_s,
    )
