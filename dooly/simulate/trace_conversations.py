"""Conversations as text (ShareGPT's form): their lengths in tokens of a given tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from dooly.errors import TraceError
from dooly.simulate.trace_columns import listed

__all__ = ["conversations", "count_tokens"]


def conversations(objects: Sequence[dict[str, Any]], name: str, tokenizer: Path | None) -> list[dict[str, Any]]:
    """Token counts of the first message and of its answer in each conversation, as vLLM's benchmark takes them.

    Args:
        objects: each with ``conversations``, a list of messages with their text under ``value``.
        name: file name in messages.
        tokenizer: folder with ``tokenizer.json``.

    Raises:
        TraceError: there is no tokenizer, or an object is no conversation.
    """
    if tokenizer is None:
        raise TraceError(
            f"{name}: conversations as text, whose tokens only a tokenizer counts; name the folder of one with "
            f"--trace-option tokenizer=FOLDER (found: {listed(list(objects[0]))})"
        )
    turns = [_first_turn(each, f"{name}, entry {index}") for index, each in enumerate(objects, start=1)]
    counts = count_tokens([text for turn in turns if turn for text in turn], tokenizer)
    if not counts:
        raise TraceError(f"{name}: no conversation has a message and an answer")
    return [{"prompt_tokens": a, "output_tokens": b} for a, b in zip(counts[::2], counts[1::2], strict=True)]


def _first_turn(entry: dict[str, Any], place: str) -> tuple[str, str] | None:
    """The first message and its answer; None for a conversation without an answer."""
    messages = entry.get("conversations")
    if not isinstance(messages, list):
        raise TraceError(f"{place}: no list of messages under 'conversations'")
    first = cast(list[Any], messages)[:2]
    values = [cast(dict[str, Any], each).get("value") if isinstance(each, dict) else None for each in first]
    if any(not isinstance(value, str) for value in values):
        raise TraceError(f"{place}: a message without text under 'value'")
    return (str(values[0]), str(values[1])) if len(values) == 2 else None


def count_tokens(texts: list[str], folder: Path) -> list[int]:
    """Tokens of each text.

    Args:
        folder: with ``tokenizer.json``, or that file.

    Raises:
        TraceError: there is no such tokenizer, or nothing to read it with.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise TraceError("tokenizer: the package `tokenizers` is not installed") from None
    file = folder / "tokenizer.json" if folder.is_dir() else folder
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing more special
        raise TraceError(f"{file}: no tokenizer: {' '.join(str(error).split())[:120]}") from None
    return [len(each.ids) for each in tokenizer.encode_batch(texts)]
