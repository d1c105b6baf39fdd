"""The latency database: environments, operations, points, formulas."""

import json
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, delete, func, insert, select
from sqlalchemy.exc import IntegrityError

from dooly.database.claims import Claim, finish, insert_claim, insert_finished, insert_times, release, take_over
from dooly.database.connection import connect, connected, location_url, place_of, translated, use_write_ahead_log
from dooly.database.decoding import decoding
from dooly.database.environment import Environment
from dooly.database.owner import Owner
from dooly.database.point import Measurement, Point, Samples, Status
from dooly.database.records import (
    Differences,
    Domain,
    Record,
    StoredOperation,
    SummaryRow,
    Times,
    domain_of,
    measurement_of,
    nearest,
)
from dooly.database.schema import SCHEMA_VERSION, environments, formulas, operations, points, schema_version, upgrade
from dooly.database.soundness import problems, samples_problem
from dooly.errors import DatabaseError

__all__ = ["Database"]

_RESTART_S = 60.0
"""How long a server that was there is waited for: as long as it may take to be started anew."""


class Database:
    """A latency database, opened from a file path or a URL (SQLite or PostgreSQL; one code path).

    Every writing method is one short transaction: when it returns, its effect survives `kill -9`.

    Args:
        location: file path or SQLAlchemy URL.
        create: whether a missing file may be made.
        lock_timeout_s: how long to wait while another process writes.

    Raises:
        DatabaseError: it cannot be opened, is not a database of dooly, or was written by a newer one.
    """

    def __init__(self, location: str | Path, *, create: bool = True, lock_timeout_s: float = 10.0) -> None:
        url = location_url(location)
        self.place = place_of(url)
        self._engine = connect(url, create=create, lock_timeout_s=lock_timeout_s)
        self._patience_s = 0.0
        self._writer = self._engine.execution_options(writes=True)
        self._environment_ids: dict[str, int] = {}
        self._operation_ids: dict[str, int] = {}
        if self._schema_version() < SCHEMA_VERSION:
            with translated(self.place):
                use_write_ahead_log(self._engine)
            try:
                with self._writing() as connection:
                    upgrade(connection, self.place)
            except DatabaseError:  # a server lets two processes create the tables at once; one of them is too late
                if self._schema_version() != SCHEMA_VERSION:
                    raise
        if self._engine.dialect.name != "sqlite":
            self._patience_s = _RESTART_S

    def _schema_version(self) -> int:
        with self._reading() as connection:
            return schema_version(connection, self.place)

    @contextmanager
    def _reading(self) -> Generator[Connection]:
        with self._transaction(self._engine) as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Generator[Connection]:
        with self._transaction(self._writer) as connection:
            yield connection

    @contextmanager
    def _transaction(self, engine: Engine) -> Generator[Connection]:
        with translated(self.place), connected(engine, self._patience_s) as connection, connection.begin():
            yield connection

    def close(self) -> None:
        """Close the pooled connections."""
        self._engine.dispose()

    # -- operations and environments ------------------------------------------------------------------------------

    def add_operation(self, signature: str, target: str, text: str) -> None:
        """Store an operation once; a second call with the same text does nothing.

        Raises:
            DatabaseError: the signature is stored with another text.
        """
        known = self._find_operation(signature)
        if known is None:
            with suppress_duplicate(), self._writing() as connection:
                connection.execute(insert(operations).values(signature=signature, target=target, text=text))
            known = self._find_operation(signature)
        if known is None or known.text != text:
            raise DatabaseError(
                f"{self.place}: the signature {signature} is stored with another operation text; "
                "use another database file for this version of dooly"
            )

    def _find_operation(self, signature: str) -> StoredOperation | None:
        with self._reading() as connection:
            row = connection.execute(select(operations).where(operations.c.signature == signature)).one_or_none()
        if row is None:
            return None
        self._operation_ids[signature] = row.id
        with decoding(self.place, f"the stored operation {signature}"):
            return StoredOperation(row.signature, row.target, row.text)

    def operations(self) -> list[StoredOperation]:
        """All stored operations, by target and signature."""
        with self._reading() as connection:
            rows = connection.execute(select(operations).order_by(operations.c.target, operations.c.signature)).all()
        with decoding(self.place, "a stored operation"):
            return [StoredOperation(row.signature, row.target, row.text) for row in rows]

    def environments(self) -> list[Environment]:
        """All environments that hold points or formulas, in the order in which they were first used."""
        with self._reading() as connection:
            rows = connection.execute(select(environments).order_by(environments.c.id)).all()
        with decoding(self.place, "a stored environment"):
            return [Environment.from_json(row.facts) for row in rows]

    def near_environments(self, environment: Environment) -> list[tuple[Environment, Differences]]:
        """Other environments and how they differ (asked for, stored), nearest first."""
        return nearest(environment, self.environments())

    def _operation_id(self, signature: str) -> int:
        if signature not in self._operation_ids and self._find_operation(signature) is None:
            raise DatabaseError(f"{self.place}: operation {signature} is not stored; add it before its points")
        return self._operation_ids[signature]

    def _environment_id(self, environment: Environment, *, create: bool) -> int | None:
        key = environment.key
        if key not in self._environment_ids and create:
            with suppress_duplicate(), self._writing() as connection:
                connection.execute(insert(environments).values(key=key, facts=environment.json))
        if key not in self._environment_ids:
            with self._reading() as connection:
                found = connection.execute(select(environments.c.id).where(environments.c.key == key)).scalar()
            if found is None:
                return None
            self._environment_ids[key] = int(found)
        return self._environment_ids[key]

    # -- points ---------------------------------------------------------------------------------------------------

    def claim(
        self, signature: str, environment: Environment, point: Point, *, retry_failed: bool = False
    ) -> Claim | None:
        """Claim a point for this process; None if it is measured, failed, or being measured by a living process.

        A claim whose process is gone is taken over.

        Args:
            retry_failed: whether a failed or skipped point may be tried again.
        """
        owner = Owner.here()
        operation, home = self._operation_id(signature), self._environment_id(environment, create=True)
        assert home is not None
        try:
            with self._writing() as connection:
                row = insert_claim(connection, operation, home, point, owner)
        except DatabaseError as error:
            if not isinstance(error.__cause__, IntegrityError):
                raise
            with decoding(self.place, f"the claim of a point of {signature}"), self._writing() as connection:
                taken = take_over(connection, operation, home, point, owner, retry_failed=retry_failed)
            if taken is None:
                return None
            row = taken
        return Claim(row, signature, point, owner.json)

    def record_ok(self, claim: Claim, samples: Samples) -> bool:
        """Commit the samples of a claimed point; False if the claim was lost to another process (nothing is stored).

        Samples that are not sound make it a failed point.
        """
        problem = samples_problem(samples)
        if problem is not None:
            return self.record_failed(claim, problem)
        with self._writing() as connection:
            return finish(connection, claim, Status.OK, samples, None)

    def record_failed(self, claim: Claim, reason: str) -> bool:
        """Commit that measuring failed and why.  The point stays unmeasured and is not tried again unasked."""
        with self._writing() as connection:
            return finish(connection, claim, Status.FAILED, Samples(()), reason)

    def record_skipped(self, claim: Claim, reason: str) -> bool:
        """Commit that the point cannot be measured here, and why."""
        with self._writing() as connection:
            return finish(connection, claim, Status.SKIPPED, Samples(()), reason)

    def release(self, claim: Claim) -> None:
        """Give a claimed point back unmeasured, e.g. when the user interrupts."""
        with self._writing() as connection:
            release(connection, claim)

    def points(
        self, signature: str, environment: Environment, *, status: Status | None = Status.OK
    ) -> list[Measurement]:
        """Points of one operation in one environment, in the order in which they were taken.

        Args:
            status: which ones; None for all.
        """
        home = self._environment_id(environment, create=False)
        if home is None or self._find_operation(signature) is None:
            return []
        question = select(points).where(
            points.c.operation == self._operation_ids[signature], points.c.environment == home
        )
        if status is not None:
            question = question.where(points.c.status == status)
        with self._reading() as connection:
            rows = connection.execute(question.order_by(points.c.id)).all()
        with decoding(self.place, f"a stored point of {signature}"):
            return [measurement_of(row, signature, environment.key) for row in rows]

    def covered_domain(self, signature: str, environment: Environment) -> Domain:
        """Return the ranges that the measured points span; no ranges if there are no points."""
        return domain_of(self.points(signature, environment))

    def dealt_with(self, homes: Collection[Environment]) -> list[tuple[str, str, str, str]]:
        """Signature, key of the environment, point as JSON, and status of every point there but mere claims."""
        question = (
            select(operations.c.signature, environments.c.key, points.c.point, points.c.status)
            .join(operations, operations.c.id == points.c.operation)
            .join(environments, environments.c.id == points.c.environment)
            .where(points.c.status != Status.CLAIMED, points.c.environment.in_(self._known_ids(homes)))
        )
        with self._reading() as connection:
            return [(row[0], row[1], row[2], row[3]) for row in connection.execute(question)]

    def _known_ids(self, homes: Collection[Environment]) -> list[int]:
        found = (self._environment_id(home, create=False) for home in homes)
        return [each for each in found if each is not None]

    def summary(self, homes: Collection[Environment] | None = None) -> list[SummaryRow]:
        """Points and their cost by environment, operation and status; in some environments, or all for None."""
        cost = func.coalesce(func.sum(points.c.finished_s - points.c.started_s), 0.0)
        question = select(
            points.c.environment, points.c.operation, points.c.status, func.count().label("points"), cost.label("cost")
        )
        if homes is not None:
            question = question.where(points.c.environment.in_(self._known_ids(homes)))
        groups = question.group_by(points.c.environment, points.c.operation, points.c.status).subquery()
        named = (
            select(
                environments.c.key,
                operations.c.signature,
                operations.c.target,
                groups.c.status,
                groups.c.points,
                groups.c.cost,
            )
            .join(operations, operations.c.id == groups.c.operation)
            .join(environments, environments.c.id == groups.c.environment)
            .order_by(environments.c.key, operations.c.target, operations.c.signature, groups.c.status)
        )
        with self._reading() as connection:
            rows = connection.execute(named).all()
        with decoding(self.place, "a stored point"):
            return [SummaryRow(row[0], row[1], row[2], Status(row[3]), int(row[4]), float(row[5])) for row in rows]

    def records(self) -> list[Record]:
        """Every point that is measured, failed or skipped, with all that it belongs to, in the order of taking."""
        homes = {environment.key: environment for environment in self.environments()}
        kept = [(operation, home) for operation in self.operations() for home in homes.values()]
        found = [
            Record(operation, home, measurement)
            for operation, home in kept
            for measurement in self.points(operation.signature, home, status=None)
            if measurement.status is not Status.CLAIMED
        ]
        return sorted(found, key=lambda record: record.measurement.started_s)

    def add_records(self, records: Iterable[Record]) -> int:
        """Store points taken elsewhere, all or none; a measured point here is never replaced.  Returns how many.

        Raises:
            DatabaseError: a record is not sound, or its operation is stored here with another text.
        """
        listed = list(records)
        if found := problems(listed):
            more = f" and {len(found) - 1} more; `dooly db check` lists them" if len(found) > 1 else ""
            raise DatabaseError(f"{self.place}: nothing is added: {found[0]}{more}")
        for operation in dict.fromkeys(record.operation for record in listed):
            self.add_operation(operation.signature, operation.target, operation.text)
        homes = {each: self._environment_id(each, create=True) for each in {record.environment for record in listed}}
        with self._writing() as connection:
            return sum(
                insert_finished(connection, self._operation_ids[r.operation.signature], home, r.measurement)
                for r in listed
                if (home := homes[r.environment]) is not None
            )

    def add_times(self, listed: Sequence[Times]) -> int:
        """Store published times, one a point, all or none; a point that is stored here stays.  Returns how many.

        Raises:
            DatabaseError: an operation is stored here with another text.
        """
        for operation in dict.fromkeys(each.operation for each in listed):
            if operation.signature not in self._operation_ids:
                self.add_operation(operation.signature, operation.target, operation.text)
        homes = {each: self._environment_id(each, create=True) for each in {times.environment for times in listed}}
        with self._writing() as connection:
            return sum(
                insert_times(connection, self._operation_ids[each.operation.signature], home, each)
                for each in listed
                if (home := homes[each.environment]) is not None
            )

    # -- formulas -------------------------------------------------------------------------------------------------

    def store_formula(self, signature: str, environment: Environment, formula: Mapping[str, object]) -> None:
        """Store the fitted formula of an operation, replacing an earlier fit.

        Where another process stores its own fit at the same moment, that one stands.
        """
        operation, home = self._operation_id(signature), self._environment_id(environment, create=True)
        with suppress_duplicate(), self._writing() as connection:
            connection.execute(
                delete(formulas).where(formulas.c.operation == operation, formulas.c.environment == home)
            )
            text = json.dumps(formula, sort_keys=True)
            connection.execute(insert(formulas).values(operation=operation, environment=home, formula=text))

    def formula(self, signature: str, environment: Environment) -> dict[str, object] | None:
        """The stored formula, or None."""
        home = self._environment_id(environment, create=False)
        if home is None or self._find_operation(signature) is None:
            return None
        with self._reading() as connection:
            text = connection.execute(
                select(formulas.c.formula).where(
                    formulas.c.operation == self._operation_ids[signature], formulas.c.environment == home
                )
            ).scalar()
        with decoding(self.place, f"the stored formula of {signature}"):
            return None if text is None else json.loads(text)


@contextmanager
def suppress_duplicate() -> Generator[None]:
    """Swallow the error of the insert that came second; the caller looks again."""
    try:
        yield
    except DatabaseError as error:
        if not isinstance(error.__cause__, IntegrityError):
            raise
