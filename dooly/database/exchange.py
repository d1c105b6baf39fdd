"""Databases as Parquet files: what ships with dooly, and what people send each other."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import polars as pl

from dooly.database.decoding import decoding
from dooly.database.environment import Environment
from dooly.database.point import Measurement, Point, Samples, Status, aside_from_json
from dooly.database.records import Record, StoredOperation
from dooly.database.trial import read_any, try_out
from dooly.errors import DatabaseError

__all__ = ["measurement_of_row", "read_frame", "read_parquet", "shipped_files", "write_parquet"]

_DATA = Path(__file__).resolve().parent.parent / "data"
"""Folder of the files that come with dooly."""

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
    return sorted(_DATA.glob("*.parquet"))


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
    for number, row in enumerate(read_frame(path).iter_rows(named=True), start=1):
        with decoding(str(path), f"row {number}"):
            record = _record(row)
        yield record


def read_frame(path: Path) -> pl.DataFrame:
    """The rows of a file that `write_parquet` wrote, as columns.

    Raises:
        DatabaseError: it cannot be read, or holds something else.
    """
    if not path.resolve().is_relative_to(_DATA):
        try_out(path)
    frame = read_any(path)
    if dict(frame.schema) != _SCHEMA:
        raise DatabaseError(f"{path}: not a latency database of dooly but {', '.join(frame.columns)[:120]}")
    return frame


def _record(row: dict[str, Any]) -> Record:
    environment = Environment.from_json(row["environment"])
    operation = StoredOperation(row["signature"], row["target"], row["operation"])
    return Record(operation, environment, measurement_of_row(row, environment.key))


def measurement_of_row(row: dict[str, Any], environment: str) -> Measurement:
    """The point in a row of `read_frame`, in the environment of a key.

    Raises:
        ValueError, KeyError, TypeError: the row is damaged.
    """
    samples = Samples(
        values_us=tuple(row["samples_us"]),
        warmups_us=tuple(row["warmups_us"]),
        loops=row["loops"],
        aside=aside_from_json(row["aside"]),
        clock_mhz=row["clock_mhz"],
        temperature_c=row["temperature_c"],
    )
    return Measurement(
        operation=row["signature"],
        environment=environment,
        point=Point.from_json(row["point"]),
        status=Status(row["status"]),
        reason=row["reason"],
        samples=samples,
        started_s=row["started_s"],
        finished_s=row["finished_s"],
    )
