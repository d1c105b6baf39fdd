"""Databases as Parquet files: what ships with dooly, and what people send each other."""

import json
import statistics
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import polars as pl

from dooly.database.environment import Environment
from dooly.database.point import Measurement, Point, Samples, Status
from dooly.database.records import Record, StoredOperation
from dooly.errors import DatabaseError, DoolyError
from dooly.ir import parse_program

__all__ = ["check", "measurement_of_row", "read_frame", "read_parquet", "shipped_files", "write_parquet"]

_SCHEMA = {
    "signature": pl.String,
    "target": pl.String,
    "operation": pl.String,
    "environment": pl.String,
    "point": pl.String,
    "status": pl.String,
    "reason": pl.String,
    "samples_us": pl.List(pl.Float64),
    "warmups_us": pl.List(pl.Float64),
    "loops": pl.Int64,
    "aside": pl.String,
    "clock_mhz": pl.Float64,
    "temperature_c": pl.Float64,
    "started_s": pl.Float64,
    "finished_s": pl.Float64,
}


def shipped_files() -> list[Path]:
    """Parquet files of measurements that come with dooly."""
    return sorted((Path(__file__).resolve().parent.parent / "data").glob("*.parquet"))


def write_parquet(records: Iterable[Record], path: Path) -> int:
    """Write records, one row each, with the text of the operation and every fact of the environment; returns how many.

    Raises:
        DatabaseError: the file cannot be written.
    """
    frame = pl.DataFrame([_row(record) for record in records], schema=_SCHEMA)
    try:
        frame.write_parquet(path, compression="zstd", compression_level=19, statistics=False)
    except OSError as error:
        raise DatabaseError(f"{path}: cannot be written: {error.strerror or error}") from error
    return frame.height


def _row(record: Record) -> dict[str, object]:
    measured, samples = record.measurement, record.measurement.samples
    return {
        "signature": record.operation.signature,
        "target": record.operation.target,
        "operation": record.operation.text,
        "environment": record.environment.json,
        "point": measured.point.json,
        "status": measured.status.value,
        "reason": measured.reason,
        "samples_us": list(samples.values_us),
        "warmups_us": list(samples.warmups_us),
        "loops": samples.loops,
        "aside": json.dumps(dict(samples.aside)),
        "clock_mhz": samples.clock_mhz,
        "temperature_c": samples.temperature_c,
        "started_s": measured.started_s,
        "finished_s": measured.finished_s,
    }


def read_parquet(path: Path) -> Iterator[Record]:
    """The records of a file that `write_parquet` wrote.

    Raises:
        DatabaseError: it cannot be read, or holds something else.
    """
    frame = read_frame(path)
    try:
        for row in frame.iter_rows(named=True):
            yield _record(row)
    except (ValueError, KeyError, TypeError) as error:
        raise DatabaseError(f"{path}: a damaged row: {error}") from error


def read_frame(path: Path) -> pl.DataFrame:
    """The rows of a file that `write_parquet` wrote, as columns.

    Raises:
        DatabaseError: it cannot be read, or holds something else.
    """
    try:
        frame = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DatabaseError(f"{path}: cannot be read as Parquet: {str(error).splitlines()[0]}") from error
    if dict(frame.schema) != _SCHEMA:
        raise DatabaseError(f"{path}: not a latency database of dooly but {', '.join(frame.columns)[:120]}")
    return frame


def _record(row: dict[str, Any]) -> Record:
    environment = Environment.from_json(str(row["environment"]))
    operation = StoredOperation(str(row["signature"]), str(row["target"]), str(row["operation"]))
    return Record(operation, environment, measurement_of_row(row, environment.key))


def measurement_of_row(row: dict[str, Any], environment: str) -> Measurement:
    """The point in a row of `read_frame`, in the environment of a key.

    Raises:
        ValueError, KeyError, TypeError: the row is damaged.
    """
    samples = Samples(
        values_us=tuple(row["samples_us"]),
        warmups_us=tuple(row["warmups_us"]),
        loops=int(str(row["loops"])),
        aside=tuple(json.loads(str(row["aside"])).items()),
        clock_mhz=row["clock_mhz"],
        temperature_c=row["temperature_c"],
    )
    return Measurement(
        operation=str(row["signature"]),
        environment=environment,
        point=Point.from_json(str(row["point"])),
        status=Status(str(row["status"])),
        reason=None if row["reason"] is None else str(row["reason"]),
        samples=samples,
        started_s=float(str(row["started_s"])),
        finished_s=None if row["finished_s"] is None else float(str(row["finished_s"])),
    )


def check(records: Iterable[Record]) -> list[str]:
    """List what is wrong with the records, one line each; empty if they are sound.

    An operation's text must parse and have the signature that it is stored under; a measured point must have samples,
    most of them positive, and must have ended after it began.
    """
    problems: list[str] = []
    known: dict[str, str | None] = {}
    for record in records:
        operation, measured = record.operation, record.measurement
        if operation.signature not in known:
            known[operation.signature] = _operation_problem(operation)
            problems += [problem] if (problem := known[operation.signature]) else []
        if measured.status is not Status.OK:
            continue
        where = f"{operation.signature} at {measured.point}"
        values = measured.samples.values_us
        if not values or statistics.median(values) <= 0.0:
            problems.append(f"{where}: measured, but without samples that are mostly positive")
        if measured.finished_s is None or measured.finished_s < measured.started_s:
            problems.append(f"{where}: measured, but it did not end after it began")
    return problems


def _operation_problem(operation: StoredOperation) -> str | None:
    if operation.text.startswith("pseudo operation"):
        return None
    try:
        (parsed,) = parse_program(operation.text).operations
    except (DoolyError, ValueError) as error:
        return f"{operation.signature}: its text does not parse: {str(error).splitlines()[0]}"
    if parsed.signature != operation.signature:
        return f"{operation.signature}: its text has the signature {parsed.signature}; another version wrote it"
    return None
