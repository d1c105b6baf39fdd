"""Data that ships with dooly besides measured points: operations of the measured models, and points to judge by."""

from collections import Counter
from pathlib import Path

from dooly.database import Status
from dooly.database.exchange import read_parquet
from dooly.errors import DatabaseError
from dooly.hardware.environment import machine_behind
from dooly.hardware.machine import Machine
from dooly.ir import Program, read_program

__all__ = ["DATA", "MEASURED", "OPERATIONS", "evaluation", "measured_models", "measured_on", "measurements"]

DATA = Path(__file__).resolve().parent.parent / "data"
OPERATIONS = DATA / "models.ir"

MEASURED: tuple[tuple[str, int], ...] = (
    ("llama-3.1-8b", 1),
    ("llama-3.1-70b", 4),
    ("llama-3.2-1b", 1),
    ("qwen2.5-7b", 1),
    ("qwen3-8b", 1),
    ("qwen3-32b", 2),
    ("qwen3-30b-a3b", 1),
    ("mixtral-8x7b", 2),
    ("gemma-2-9b", 1),
    ("phi-3-mini", 1),
    ("deepseek-v2-lite", 1),
    ("gpt-oss-20b", 1),
)
"""Bundled models whose operations were measured, each with its tensor-parallel size, in the order of reports."""


def measured_models() -> Program:
    """The table of operations of the measured models, with FLASH_ATTN where a backend can be chosen."""
    return read_program(OPERATIONS)


def measurements(platform: str) -> Path:
    """The Parquet file of what was measured on one GPU.

    Raises:
        DatabaseError: none ships.
    """
    path = DATA / f"{platform}.parquet"
    if not path.exists():
        there = ", ".join(sorted(each.stem for each in DATA.glob("*.parquet")))
        raise DatabaseError(f"--platform {platform}: no measurements of it ship with dooly; expected one of {there}")
    return path


def measured_on(platform: str) -> Machine:
    """The machine that the measurements of one GPU were taken on.

    Raises:
        DatabaseError: none ships, or the file is damaged.
    """
    records = read_parquet(measurements(platform))
    points = Counter(record.environment for record in records if record.measurement.status is Status.OK)
    return machine_behind(points, platform)


def evaluation(platform: str, what: str) -> Path:
    """Return the file of points of one GPU that no fit may use: ``heldout``, ``repeat`` or ``vidur-grid``."""
    return DATA / "evaluation" / f"{platform}-{what}.parquet"
