"""How a user wants a trace file to be read, where the file does not say so itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dooly.errors import TraceError

__all__ = ["UNITS", "TraceOptions"]

UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "min": 60.0, "h": 3600.0, "d": 86400.0}
"""Seconds in each unit of arrival times."""


@dataclass(frozen=True)
class TraceOptions:
    """Decisions about a trace file; what is None is detected.

    Attributes:
        arrival, prompt, output: names of the columns of arrival times, prompt tokens and output tokens.
        unit: unit of arrival times that are numbers, a key of `UNITS`.
        block: tokens of a prompt that one prefix id stands for.
        zero: what becomes of requests without output tokens: ``skip`` or ``one`` token.
        tokenizer: folder with the ``tokenizer.json`` that counts the tokens of conversations.

    Raises:
        TraceError: a value is none of these.
    """

    arrival: str | None = None
    prompt: str | None = None
    output: str | None = None
    unit: str | None = None
    block: int | None = None
    zero: str = "skip"
    tokenizer: Path | None = None

    def __post_init__(self) -> None:
        if self.unit is not None and self.unit not in UNITS:
            raise TraceError(f"unit={self.unit}: no unit of arrival times; expected one of {', '.join(UNITS)}")
        if self.zero not in ("skip", "one"):
            raise TraceError(f"zero={self.zero}: expected skip, or one for one output token")
        if self.block is not None and self.block < 1:
            raise TraceError(f"block={self.block}: expected at least 1 token for a prefix id")

    @classmethod
    def parse(cls, pairs: Iterable[str]) -> TraceOptions:
        """Read ``KEY=VALUE`` texts.

        >>> TraceOptions.parse(["unit=ms", "prompt=Request tokens"]).prompt
        'Request tokens'

        Raises:
            TraceError: a key is unknown, given twice, or its value is none of those expected.
        """
        known = ("arrival", "prompt", "output", "unit", "block", "zero", "tokenizer")
        given: dict[str, str] = {}
        for pair in pairs:
            key, _, value = pair.partition("=")
            if key not in known or not value:
                raise TraceError(f"{pair!r} is no option of a trace; expected KEY=VALUE, KEY one of {', '.join(known)}")
            if key in given:
                raise TraceError(f"{key} is given twice for the trace: {given[key]} and {value}")
            given[key] = value
        block = given.get("block")
        if block is not None and not (block.isascii() and block.isdigit() and len(block) < 10):
            raise TraceError(f"block={block}: expected a whole number of tokens for a prefix id")
        folder = given.get("tokenizer")
        return cls(
            arrival=given.get("arrival"),
            prompt=given.get("prompt"),
            output=given.get("output"),
            unit=given.get("unit"),
            block=None if block is None else int(block),
            zero=given.get("zero", "skip"),
            tokenizer=None if folder is None else Path(folder),
        )
