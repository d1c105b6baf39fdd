"""Loads that a server is judged by."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from dooly.engine.loads import Load
from dooly.errors import SimulationError
from dooly.files import read_text

__all__ = ["LADDER", "read_ladder", "warm_up"]

LADDER = (
    Load("c1", 1024, 128, 4, concurrency=1),
    Load("c16", 1024, 128, 64, concurrency=16),
    Load("c64", 1024, 256, 192, concurrency=64),
    Load("c256", 512, 128, 768, 0.5, concurrency=256),
    Load("r3", 1024, 128, 45, 0.9, rate=3.0),
    Load("r12", 512, 128, 144, 0.9, rate=12.0),
    Load("long", 8000, 128, 24, concurrency=8),
)
"""From one request at a time to a saturated server, two Poisson arrivals, and long prompts."""

WARM_UP = Load("warm", 700, 32, 96, 0.9, concurrency=48)
"""Served before anything counts: the first steps of an engine are slower, and kernels are compiled for new shapes."""


def warm_up(ladder: Sequence[Load]) -> Load:
    """`WARM_UP`, no longer than the longest request of the ladder: a server may take no longer ones."""
    longest = max((load.input_tokens + load.output_tokens) * (1.0 + load.range_ratio) for load in ladder)
    share = min(1.0, longest / ((WARM_UP.input_tokens + WARM_UP.output_tokens) * (1.0 + WARM_UP.range_ratio)))
    tokens = (max(1, int(share * count)) for count in (WARM_UP.input_tokens, WARM_UP.output_tokens))
    return replace(WARM_UP, **dict(zip(("input_tokens", "output_tokens"), tokens, strict=True)))


def read_ladder(path: str | Path) -> tuple[Load, ...]:
    """Loads of a JSON file: a list of objects with the attributes of `Load`.

    Raises:
        SimulationError: the file cannot be read or holds something else.
    """
    try:
        content: Any = json.loads(read_text(path))
        return tuple(Load(**fields) for fields in content)
    except OSError as error:
        raise SimulationError(f"{path}: cannot read: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        known = ", ".join(asdict(LADDER[0]))
        raise SimulationError(f"{path}: not a list of loads with {known}: {error}") from error
