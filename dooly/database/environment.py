"""The environment of a latency, besides the operation and the batch: machine, libraries, backend, cache layout."""

import hashlib
import json
import math
from dataclasses import dataclass
from typing import cast

__all__ = ["Environment", "Fact"]

Fact = str | int | float | bool


@dataclass(frozen=True)
class Environment:
    """Sorted key/value facts.  Two environments are the same exactly if all facts are; see `Environment.of`.

    Raises:
        ValueError: the keys are not sorted and distinct, or a value is not a plain scalar.
    """

    facts: tuple[tuple[str, Fact], ...]

    def __post_init__(self) -> None:
        keys = [key for key, _ in self.facts]
        if keys != sorted(set(keys)):
            raise ValueError(f"environment facts must have sorted, distinct keys; found {keys}")
        for name, value in self.facts:
            if not _is_fact(value):
                raise ValueError(f"the environment's {name} must be text, a number or true or false; found {value!r}")

    @classmethod
    def of(cls, **facts: Fact) -> "Environment":
        """Build from keywords in any order."""
        return cls(tuple(sorted(facts.items())))

    @classmethod
    def from_json(cls, text: str) -> "Environment":
        """Inverse of `json`.

        Raises:
            ValueError: the text is not an environment.
        """
        value = json.loads(text)
        if not isinstance(value, dict):
            raise ValueError(f"an environment must be a JSON object, found {text[:60]}")
        return cls(tuple(sorted(cast(dict[str, Fact], value).items())))

    @property
    def json(self) -> str:
        """Canonical text: one JSON object, keys sorted, no spaces."""
        return json.dumps(dict(self.facts), sort_keys=True, separators=(",", ":"))

    @property
    def key(self) -> str:
        """12 hex digits that name this environment in tables and messages."""
        return hashlib.sha256(self.json.encode()).hexdigest()[:12]

    def get(self, name: str) -> Fact | None:
        """The value of one fact, or None."""
        return dict(self.facts).get(name)

    @property
    def source(self) -> str:
        """The publication that the points are from; empty where dooly measured them."""
        return str(self.get("source") or "")

    def differences(self, other: "Environment") -> dict[str, tuple[Fact | None, Fact | None]]:
        """Facts that differ, as name -> (here, there); None where a side lacks the fact."""
        mine, theirs = dict(self.facts), dict(other.facts)
        names = sorted(mine.keys() | theirs.keys())
        return {name: (mine.get(name), theirs.get(name)) for name in names if mine.get(name) != theirs.get(name)}

    def __str__(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.facts)


def _is_fact(value: object) -> bool:
    """Whether what a file holds is a plain scalar, and no infinite number."""
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))
