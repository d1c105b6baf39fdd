"""How the latencies of two sets of points differ where they hold the same points."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles

from dooly.database.point import Status
from dooly.database.records import Record

__all__ = ["Agreement", "Difference", "agreement", "agreement_by_target", "difference"]


@dataclass(frozen=True)
class Agreement:
    """Distribution of ratios of latencies, second over first.

    Attributes:
        points: measured in both.
        p5, median, p95: of the ratios; of few points the least and the largest take the place of the outer two.
        within_2, within_5, within_10: percent of the points whose latencies differ by no more than so many percent.
    """

    points: int
    p5: float
    median: float
    p95: float
    within_2: float
    within_5: float
    within_10: float


@dataclass(frozen=True)
class Difference:
    """Ratios of one operation, of whatever environments.

    Attributes:
        ratios: by point, second over first.
    """

    signature: str
    target: str
    ratios: tuple[float, ...]


def difference(first: Iterable[Record], second: Iterable[Record]) -> list[Difference]:
    """Ratios of latencies at the points that both hold, per operation; of one environment where it is in both."""
    good = [record for record in first if record.measurement.status is Status.OK]
    ours = {(each.operation.signature, each.measurement.point): each for each in good}
    same = {(each.operation.signature, each.measurement.point, each.environment.key): each for each in good}
    ratios: dict[tuple[str, str], list[float]] = {}
    for record in second:
        where = record.operation.signature, record.measurement.point
        mine = same.get((*where, record.environment.key), ours.get(where))
        if mine is not None and record.measurement.status is Status.OK:
            ratio = record.measurement.latency_us / mine.measurement.latency_us
            ratios.setdefault((record.operation.target, record.operation.signature), []).append(ratio)
    return [Difference(signature, target, tuple(values)) for (target, signature), values in sorted(ratios.items())]


def agreement(ratios: Sequence[float]) -> Agreement:
    """Distribution of at least one ratio.

    >>> agreement([0.99, 1.0, 1.04])
    Agreement(points=3, p5=0.99, median=1.0, p95=1.04, within_2=66.66666666666667, within_5=100.0, within_10=100.0)
    """
    ordered = sorted(ratios)
    outer = quantiles(ordered, n=20) if len(ordered) >= 20 else [ordered[0], ordered[-1]]

    def within(percent: float) -> float:
        return 100 * sum(abs(ratio - 1.0) <= percent / 100 for ratio in ordered) / len(ordered)

    return Agreement(len(ordered), outer[0], median(ordered), outer[-1], within(2), within(5), within(10))


def agreement_by_target(differences: Iterable[Difference]) -> Mapping[str, Agreement]:
    """Agreement for each target of operations, and for ``all``; empty if nothing is in common."""
    ratios: dict[str, list[float]] = {}
    for each in differences:
        ratios.setdefault(each.target, []).extend(each.ratios)
    if ratios:
        ratios["all"] = [ratio for values in ratios.values() for ratio in values]
    return {target: agreement(values) for target, values in ratios.items()}
