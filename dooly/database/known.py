"""A database and Parquet files seen as one: points of the files are read in place, as columns."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import polars as pl

from dooly.database.decoding import decoding
from dooly.database.environment import Environment
from dooly.database.exchange import measurement_of_row, read_frame
from dooly.database.point import Measurement, Status
from dooly.database.records import Differences, Domain, StoredOperation, SummaryRow, domain_of, nearest

__all__ = ["Known", "NoPoints", "OwnPoints", "PointSource"]

_HOME = ("signature", "environment")
_POINT = (*_HOME, "point")


class PointSource(Protocol):
    """The source of points and formulas for code that only looks: a `Database`, or several sources as one."""

    @property
    def place(self) -> str:
        """How messages name the source."""
        ...

    def operations(self) -> list[StoredOperation]:
        """All known operations, by target and signature."""
        ...

    def environments(self) -> list[Environment]:
        """All environments that hold points or formulas."""
        ...

    def near_environments(self, environment: Environment) -> list[tuple[Environment, Differences]]:
        """Other environments and how they differ (asked for, stored), nearest first."""
        ...

    def points(
        self, signature: str, environment: Environment, *, status: Status | None = Status.OK
    ) -> list[Measurement]:
        """Points of one operation in one environment that have a status, or all of them for None."""
        ...

    def covered_domain(self, signature: str, environment: Environment) -> Domain:
        """Ranges that the measured points span; none if there are no points."""
        ...

    def summary(self, homes: Collection[Environment] | None = None) -> list[SummaryRow]:
        """Points and their cost by environment, operation and status; in some environments, or all for None."""
        ...

    def formula(self, signature: str, environment: Environment) -> dict[str, object] | None:
        """The stored formula, or None."""
        ...


class OwnPoints(PointSource, Protocol):
    """A source that measures: it also knows the points that it has dealt with."""

    def dealt_with(self, homes: Collection[Environment]) -> list[tuple[str, str, str, str]]:
        """Signature, environment, point and status of every point there that was measured, failed or was skipped."""
        ...


@dataclass(frozen=True)
class NoPoints:
    """The source that is there before anything is measured; needs no database.

    Attributes:
        place: of the database that there might be.
    """

    place: str

    def operations(self) -> list[StoredOperation]:
        """No operations."""
        return []

    def environments(self) -> list[Environment]:
        """No environments."""
        return []

    def near_environments(self, environment: Environment) -> list[tuple[Environment, Differences]]:  # noqa: ARG002
        """No other environments."""
        return []

    def points(
        self,
        signature: str,  # noqa: ARG002
        environment: Environment,  # noqa: ARG002
        *,
        status: Status | None = Status.OK,  # noqa: ARG002
    ) -> list[Measurement]:
        """No points."""
        return []

    def covered_domain(self, signature: str, environment: Environment) -> Domain:  # noqa: ARG002
        """No ranges."""
        return domain_of(())

    def summary(self, homes: Collection[Environment] | None = None) -> list[SummaryRow]:  # noqa: ARG002
        """No rows."""
        return []

    def formula(self, signature: str, environment: Environment) -> dict[str, object] | None:  # noqa: ARG002
        """No formula."""
        return None

    def dealt_with(self, homes: Collection[Environment]) -> list[tuple[str, str, str, str]]:  # noqa: ARG002
        """No points."""
        return []


class Known:
    """A database and the points of Parquet files that it has not measured itself, read-only.

    Points of the database come first.  Rows of the files become points only when they are asked for.

    Attributes:
        own: the database.
        files: those whose points are known beside it.

    Args:
        own: what it measures after this is seen too, beside the same point of a file.
        files: written by `write_parquet`; of a point in several of them, the first counts.

    Raises:
        DatabaseError: a file cannot be read, or holds something else.
    """

    def __init__(self, own: OwnPoints, files: Sequence[Path]) -> None:
        self.place, self.own, self.files = own.place, own, tuple(files)
        frame = pl.concat([read_frame(path) for path in files])
        with decoding(files[0].parent.name, "a stored environment"):
            texts = frame["environment"].unique(maintain_order=True)
            homes = {str(text): Environment.from_json(str(text)) for text in texts}
        self._environments = {home.key: home for home in homes.values()}
        frame = frame.with_columns(pl.col("environment").replace_strict({text: e.key for text, e in homes.items()}))
        taken = own.dealt_with(tuple(self._environments.values()))
        dealt_with = pl.DataFrame(taken, schema=dict.fromkeys((*_POINT, "here"), pl.String), orient="row")
        frame = frame.join(dealt_with, on=_POINT, how="left", maintain_order="left")
        better = (pl.col("here") != Status.OK) & (pl.col("status") == Status.OK)
        frame = frame.filter(pl.col("here").is_null() | better)
        self._rows = frame.unique(_POINT, keep="first", maintain_order=True)
        parts = self._rows.with_row_index().group_by(*_HOME).agg("index")
        self._places: dict[tuple[str, str], list[int]] = {(row[0], row[1]): row[2] for row in parts.iter_rows()}

    def operations(self) -> list[StoredOperation]:
        """All known operations, by target and signature."""
        rows = self._rows.select("signature", "target", "operation").unique("signature").iter_rows()
        found = {row[0]: StoredOperation(*row) for row in rows}
        found |= {each.signature: each for each in self.own.operations()}
        return sorted(found.values(), key=lambda each: (each.target, each.signature))

    def environments(self) -> list[Environment]:
        """All environments that hold points or formulas, those of the database first."""
        return list(dict.fromkeys((*self.own.environments(), *self._environments.values())))

    def near_environments(self, environment: Environment) -> list[tuple[Environment, Differences]]:
        """Other environments and how they differ (asked for, stored), nearest first."""
        return nearest(environment, self.environments())

    def points(
        self, signature: str, environment: Environment, *, status: Status | None = Status.OK
    ) -> list[Measurement]:
        """Points of one operation in one environment that have a status, or all of them for None.

        A point that failed in the database and was measured in a file is measured.
        """
        shipped = self._shipped(signature, environment.key)
        known = {each.point for each in shipped if each.status is Status.OK}
        own = [each for each in self.own.points(signature, environment, status=status) if each.point not in known]
        return own + [each for each in shipped if status is None or each.status is status]

    def _shipped(self, signature: str, environment: str) -> list[Measurement]:
        places = self._places.get((signature, environment), [])
        with decoding("what ships", f"a stored point of {signature}"):
            return [measurement_of_row(row, environment) for row in self._rows[places].iter_rows(named=True)]

    def covered_domain(self, signature: str, environment: Environment) -> Domain:
        """Ranges that the measured points span; none if there are no points."""
        return domain_of(self.points(signature, environment))

    def summary(self, homes: Collection[Environment] | None = None) -> list[SummaryRow]:
        """Points and their cost by environment, operation and status; in some environments, or all for None."""
        cost = (pl.col("finished_s") - pl.col("started_s")).fill_null(0.0).sum()
        asked = True if homes is None else pl.col("environment").is_in([home.key for home in homes])
        groups = self._rows.filter(asked).group_by("environment", "signature", "target", "status").agg(pl.len(), cost)
        found: dict[tuple[str, ...], SummaryRow] = {}
        for home, signature, target, status, points, cost_s in groups.iter_rows():
            found[home, signature, target, status] = SummaryRow(home, signature, target, Status(status), points, cost_s)
        for row in self.own.summary(homes):
            key = (row.environment, row.signature, row.target, row.status.value)
            found[key] = row if key not in found else row.joined(found[key])
        return [found[key] for key in sorted(found)]

    def formula(self, signature: str, environment: Environment) -> dict[str, object] | None:
        """The formula that the database holds, or None."""
        return self.own.formula(signature, environment)
