"""Claims: how several processes share one database without measuring anything twice.

A claim is a row of the table of points.  The unique key (operation, environment, point) decides between two processes
that insert at once; a claim left behind by a dead process is taken over by comparing and swapping its owner.
"""

import json
import time
from dataclasses import dataclass

from sqlalchemy import Connection, Row, delete, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from dooly.database.owner import Owner
from dooly.database.point import Measurement, Point, Samples, Status
from dooly.database.records import Times
from dooly.database.schema import points

__all__ = ["Claim", "finish", "insert_claim", "insert_finished", "insert_times", "release", "take_over"]


@dataclass(frozen=True)
class Claim:
    """The right to measure one point, held by this process until it records a result or releases it."""

    row: int
    operation: str
    point: Point
    owner: str


def insert_claim(connection: Connection, operation: int, environment: int, point: Point, owner: Owner) -> int:
    """Insert the claim and return its row.

    Raises:
        sqlalchemy.exc.IntegrityError: the point has a row already.
    """
    result = connection.execute(
        insert(points).values(
            operation=operation,
            environment=environment,
            point=point.json,
            status=Status.CLAIMED,
            owner=owner.json,
            started_s=time.time(),
        )
    )
    key = result.inserted_primary_key
    assert key is not None
    return int(key[0])


def take_over(
    connection: Connection, operation: int, environment: int, point: Point, owner: Owner, *, retry_failed: bool
) -> int | None:
    """Take over the row of a point whose owner is gone, or that failed; None if it is measured or being measured.

    Args:
        retry_failed: whether a failed or skipped point may be tried again.
    """
    row = connection.execute(
        select(points).where(
            points.c.operation == operation, points.c.environment == environment, points.c.point == point.json
        )
    ).one_or_none()
    if row is None or not _is_free(row, retry_failed):
        return None
    swapped = connection.execute(
        update(points)
        .where(points.c.id == row.id, points.c.status == row.status, points.c.owner == row.owner)
        .values(status=Status.CLAIMED, reason=None, owner=owner.json, started_s=time.time(), finished_s=None)
    )
    return int(row.id) if swapped.rowcount == 1 else None


def _is_free(row: Row[tuple[object, ...]], retry_failed: bool) -> bool:
    if row.status == Status.CLAIMED:
        return Owner.from_json(row.owner).is_gone(row.started_s)
    return retry_failed and row.status in (Status.FAILED, Status.SKIPPED)


def insert_finished(connection: Connection, operation: int, environment: int, measured: Measurement) -> bool:
    """Store a point taken elsewhere; False if there is a row already that tells as much."""
    here = (points.c.operation == operation, points.c.environment == environment, points.c.point == measured.point.json)
    status = connection.execute(select(points.c.status).where(*here)).scalar()
    if status is not None and (status == Status.OK or measured.status is not Status.OK):
        return False
    if status is not None:
        connection.execute(delete(points).where(*here))
    values = {"operation": operation, "environment": environment, "point": measured.point.json, "owner": "{}"}
    values |= _outcome(measured.status, measured.samples, measured.reason)
    values |= {"started_s": measured.started_s, "finished_s": measured.finished_s}
    connection.execute(insert(points).values(**values))
    return True


def insert_times(connection: Connection, operation: int, environment: int, times: Times) -> int:
    """Insert one time a point, but for points that have a row; return how many."""
    insert_new = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[connection.dialect.name]
    alike = {"operation": operation, "environment": environment, "owner": "{}", "started_s": 0.0, "finished_s": 0.0}
    alike |= {"status": Status.OK, "warmups_us": "[]", "loops": 1, "aside": "{}"}
    rows = [{"point": point, "samples_us": f"[{us}]"} for point, us in zip(times.points, times.times_us, strict=True)]
    return connection.execute(insert_new(points).values(alike).on_conflict_do_nothing(), rows).rowcount


def _outcome(status: Status, samples: Samples, reason: str | None) -> dict[str, object]:
    return {
        "status": status,
        "reason": reason,
        "samples_us": json.dumps([round(value, 4) for value in samples.values_us]),
        "warmups_us": json.dumps([round(value, 4) for value in samples.warmups_us]),
        "loops": samples.loops,
        "aside": json.dumps(dict(samples.aside)),
        "clock_mhz": samples.clock_mhz,
        "temperature_c": samples.temperature_c,
    }


def finish(connection: Connection, claim: Claim, status: Status, samples: Samples, reason: str | None) -> bool:
    """Store the outcome; False if the claim was lost to another process meanwhile (nothing is written then)."""
    result = connection.execute(
        update(points)
        .where(points.c.id == claim.row, points.c.status == Status.CLAIMED, points.c.owner == claim.owner)
        .values(**_outcome(status, samples, reason), finished_s=time.time())
    )
    return result.rowcount == 1


def release(connection: Connection, claim: Claim) -> None:
    """Give the point back unmeasured."""
    connection.execute(
        delete(points).where(points.c.id == claim.row, points.c.status == Status.CLAIMED, points.c.owner == claim.owner)
    )
