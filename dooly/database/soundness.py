"""Soundness of a point: one check for points that were just measured, imported or merged."""

import statistics
from collections.abc import Iterable

from dooly.database.point import Samples, Status
from dooly.database.records import Record, StoredOperation
from dooly.errors import DatabaseError

__all__ = ["problems", "samples_problem"]


def samples_problem(samples: Samples) -> str | None:
    """Find what speaks against the samples as those of a measured point; None if nothing does."""
    values = samples.values_us
    if not values or statistics.median(values) <= 0.0:
        return "measured, but without samples that are mostly positive"
    return None


def problems(records: Iterable[Record]) -> list[str]:
    """List what is wrong with the records, one line each; empty if they are sound.

    The text of an operation must parse and have the signature that it is stored under; a point must not be the claim of
    a process; a measured point must have samples, most of them positive, and must have ended after it began.
    """
    found: list[str] = []
    known: set[StoredOperation] = set()
    for record in records:
        operation = record.operation
        if operation not in known:
            known.add(operation)
            found += [problem] if (problem := _operation_problem(operation)) else []
        found += [f"{operation.signature} at {record.measurement.point}: {problem}" for problem in _problems(record)]
    return found


def _problems(record: Record) -> list[str]:
    measured = record.measurement
    if measured.status is Status.CLAIMED:
        return ["claimed by a process that measures it, not measured"]
    if measured.status is not Status.OK:
        return []
    found = [problem] if (problem := samples_problem(measured.samples)) else []
    if measured.finished_s is None or measured.finished_s < measured.started_s:
        found.append("measured, but it did not end after it began")
    return found


def _operation_problem(operation: StoredOperation) -> str | None:
    if operation.text.startswith("pseudo operation"):
        return None
    try:
        operation.parsed()
    except DatabaseError as error:
        return str(error)
    return None
