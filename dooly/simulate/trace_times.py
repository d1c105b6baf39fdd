"""Arrival times of a trace: what their unit is, and on what evidence."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any, cast

from dooly.errors import TraceError
from dooly.simulate.trace_columns import unit_in_name
from dooly.simulate.trace_options import UNITS

__all__ = ["DATES", "Time", "find_unit", "read_time", "seconds"]

Time = float | datetime
"""Number in a unit yet to be found, or a moment."""

DATES = "date and time"

_FLOAT = re.compile(r"[+-]?(\d{1,25}(\.\d*)?|\.\d+)([eE][+-]?\d{1,4})?", re.ASCII)
_INTEGER = re.compile(r"[+-]?\d{1,25}", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNNAMED = ("s", "ms", "us", "ns")
"""Units that publishers use without naming them."""

_SINCE_1970_S = 946_684_800.0, 4_102_444_800.0
"""Seconds from 1970 to the years 2000 and 2100."""

_PLAUSIBLE = 0.01, 200.0
"""Requests per second of a workload, roughly."""

_PUBLISHED: tuple[tuple[str, frozenset[str], str], ...] = (
    ("Vidur", frozenset({"arrived_at"}), "s"),
    ("BurstGPT", frozenset({"Timestamp", "Request tokens", "Response tokens"}), "s"),
    ("Alibaba", frozenset({"timestamp", "chat_id", "parent_chat_id"}), "s"),
    ("`vllm bench serve`", frozenset({"start_times", "ttfts"}), "s"),
    ("aiperf", frozenset({"timestamp", "session_id", "input_length"}), "ms"),
    ("Mooncake", frozenset({"timestamp", "input_length", "output_length"}), "ms"),
)
"""Who publishes traces with these columns, and the unit of their arrival times; the first that fits counts."""


def read_time(cell: Any) -> Time:
    """Number or moment of one cell; a moment without a time zone is UTC.

    Raises:
        ValueError: the cell is neither, or a negative number.
    """
    if isinstance(cell, str) and not _FLOAT.fullmatch(cell):
        return _moment(cell)
    if isinstance(cell, str):
        value = int(cell) if _INTEGER.fullmatch(cell) else float(cell)
    elif isinstance(cell, int | float) and not isinstance(cell, bool):
        value = cell
    else:
        raise ValueError(f"{_shown(cell)} is not a time")
    if not (math.isfinite(value) and 0 <= value < 1e25):
        raise ValueError(f"{_shown(cell)} is not a time of 0 or more")
    return value


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(
            f"{_shown(text)} is neither a number nor a date and time such as 2023-11-16 18:15:46.6805900"
        ) from None


def _shown(cell: Any) -> str:
    return "a blank" if cell in ("", None) else repr(cell)[:40]


def seconds(times: Sequence[Time], unit: str) -> list[float]:
    """Seconds of each time after the earliest."""
    if unit == DATES:
        moments = cast(Sequence[datetime], times)
        first = min(moments)
        return [(each - first).total_seconds() for each in moments]
    numbers = cast(Sequence[float], times)
    origin = min(numbers)
    return [(each - origin) * UNITS[unit] for each in numbers]


def find_unit(name: str, times: Sequence[Time], columns: Collection[str], block: int | None) -> tuple[str, str]:
    """Find the unit of arrival times, and the evidence for it.

    Args:
        name: column of the times.
        times: at least one, all numbers or all moments.
        columns: all columns of the file.
        block: tokens of a prefix id, where the file shows it beyond doubt.

    Raises:
        TraceError: nothing tells the unit, or two signs contradict each other.
    """
    if isinstance(times[0], datetime):
        return DATES, ""
    numbers = cast(Sequence[float], times)
    stated = unit_in_name(name)
    if stated is not None:
        return stated, "by its name"
    span = max(numbers) - min(numbers)
    if not span:
        return "s", "all at the same time"
    rates = {unit: (len(numbers) - 1) / (span * UNITS[unit]) for unit in _UNNAMED}
    plausible = [unit for unit, rate in rates.items() if _PLAUSIBLE[0] <= rate <= _PLAUSIBLE[1]]
    signs = _signs(name, numbers, columns, block, rates["s"])
    units = list(dict.fromkeys(unit for unit, _ in signs))
    if len(units) > 1:
        units = [unit for unit in units if unit in plausible]
    elif not units:
        signs = [(unit, f"{rates[unit]:.3g} requests/s; any other unit makes that absurd") for unit in plausible]
        units = plausible
    elif plausible and not _PLAUSIBLE[0] / 100 <= rates[units[0]] <= _PLAUSIBLE[1]:
        signs += [(unit, f"{rates[unit]:.3g} requests/s instead of {rates[units[0]]:.3g}") for unit in plausible]
        units = []
    if len(units) != 1:
        told = "; ".join(f"{unit}: {why}" for unit, why in signs[:4]) or "no unit gives a plausible rate"
        raise TraceError(f"the unit of {name!r} is not clear ({told}); say it with --trace-option unit=s, ms, us or ns")
    return units[0], ", ".join(why for unit, why in signs if unit == units[0])


def _signs(
    name: str, numbers: Sequence[float], columns: Collection[str], block: int | None, rate: float
) -> list[tuple[str, str]]:
    """Units that something about the times speaks for, each with that reason; `rate` is in requests/s if seconds."""
    signs: list[tuple[str, str]] = []
    pointed = any(isinstance(each, float) for each in numbers)
    broken = pointed and any(each % 1 for each in numbers)
    for publisher, needed, unit in _PUBLISHED:
        whole_numbers = publisher == "Mooncake" and (block not in (None, 512) or (pointed and block is None))
        if name in needed and needed.issubset(columns) and not whole_numbers:
            signs.append((unit, f"as {publisher} publishes it"))
            break
    low, high = _SINCE_1970_S
    for unit in _UNNAMED:
        scale = UNITS[unit]
        if low <= min(numbers) * scale and max(numbers) * scale <= high:
            signs.append((unit, "counted from 1970"))
    if pointed and rate >= _PLAUSIBLE[0] / (10 if broken else 1):
        signs.append(("s", "written with a decimal point"))
    return signs
