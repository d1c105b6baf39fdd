"""Loads that a server is measured under: random prompts, in a closed loop or at a rate."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dooly.errors import SimulationError

__all__ = ["LADDER", "Load", "read_ladder"]


@dataclass(frozen=True)
class Load:
    """Requests that one run of `vllm bench serve` sends.

    Attributes:
        name: of letters, digits and underscores.
        input_tokens, output_tokens: mean lengths.
        requests: number of them.
        range_ratio: lengths are uniform within this share of the mean, either side; 0 for all alike.
        concurrency: most requests under way at once; None for no limit.
        rate: mean arrivals per second; None for all at once.

    Raises:
        SimulationError: a value makes no sense.
    """

    name: str
    input_tokens: int
    output_tokens: int
    requests: int
    range_ratio: float = 0.0
    concurrency: int | None = None
    rate: float | None = None

    def __post_init__(self) -> None:
        numbers = self.input_tokens, self.output_tokens, self.requests, self.concurrency or 1
        if not self.name.isidentifier() or min(numbers) < 1:
            raise SimulationError(f"load {self.name!r}: expected a word as name, and numbers of 1 or more")
        if not 0.0 <= self.range_ratio < 1.0 or (self.rate is not None and self.rate <= 0.0):
            raise SimulationError(f"load {self.name}: expected a range_ratio from 0 to below 1 and a rate above 0")

    def options(self, seed: int, prefix: str) -> dict[str, str | None]:
        """Options of `vllm bench serve` by name; ids of requests begin with `prefix`."""
        chosen: dict[str, str | None] = {
            "dataset-name": "random",
            "random-input-len": str(self.input_tokens),
            "random-output-len": str(self.output_tokens),
            "random-range-ratio": str(self.range_ratio),
            "num-prompts": str(self.requests),
            "request-rate": "inf" if self.rate is None else str(self.rate),
            "seed": str(seed),
            "request-id-prefix": prefix,
            "ignore-eos": None,
            "temperature": "0",
        }
        if self.concurrency is not None:
            chosen["max-concurrency"] = str(self.concurrency)
        return chosen


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


def read_ladder(path: str | Path) -> tuple[Load, ...]:
    """Loads of a JSON file: a list of objects with the attributes of `Load`.

    Raises:
        SimulationError: the file cannot be read or holds something else.
    """
    try:
        content: Any = json.loads(Path(path).read_text(encoding="utf-8"))
        return tuple(Load(**fields) for fields in content)
    except OSError as error:
        raise SimulationError(f"{path}: cannot read: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        known = ", ".join(asdict(LADDER[0]))
        raise SimulationError(f"{path}: not a list of loads with {known}: {error}") from error
