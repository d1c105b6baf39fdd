"""Prompts of the benchmark's datasets: their lengths, and which beginnings they share."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dooly.bench.load import Arrivals, arriving
from dooly.errors import TraceError
from dooly.files import read_text
from dooly.simulate import Trace, TraceOptions, TraceRequest, read_trace
from dooly.simulate.trace_conversations import count_tokens
from dooly.simulate.trace_options import UNITS

__all__ = ["Dataset", "RandomPrompts", "custom_prompts", "random_prompts", "sharegpt_prompts", "timed_prompts"]

DatasetName = Literal["random", "sharegpt", "custom", "timed_trace"]


@dataclass(frozen=True)
class RandomPrompts:
    """Lengths of random prompts and outputs, each drawn evenly from a range around its mean.

    Attributes:
        input_len, output_len: tokens on average, the shared beginning left out.
        input_range, output_range: half the width of the range, as a share of the mean: 0 for one length.
        prefix_len: tokens of a beginning that all prompts share.
    """

    input_len: int = 1024
    output_len: int = 128
    input_range: float = 0.0
    output_range: float = 0.0
    prefix_len: int = 0

    def __post_init__(self) -> None:
        if min(self.input_len, self.prefix_len) < 0 or self.output_len < 1:
            raise TraceError(
                f"{self.input_len} input, {self.output_len} output and {self.prefix_len} prefix tokens; expected 0 or "
                "more, and at least 1 of output"
            )
        for ratio in (self.input_range, self.output_range):
            if not 0 <= ratio < 1:
                raise TraceError(f"range ratio of {ratio:g}; expected 0 or more and less than 1")
        if self.prefix_len + math.floor(self.input_len * (1 - self.input_range)) < 1:
            raise TraceError(
                f"{self.input_len} input tokens with a range ratio of {self.input_range:g} and no prefix allow an "
                "empty prompt; raise the input or the prefix length"
            )


def random_prompts(lengths: RandomPrompts, count: int, *, seed: int) -> list[TraceRequest]:
    """Draw `count` requests, with the benchmark's own draws for a tokenizer that adds no special tokens.

    No prompt begins like another, but for the prefix: the benchmark's begin at random places of its vocabulary.
    """
    draws = np.random.default_rng(seed)
    inputs = draws.integers(*_range(lengths.input_len, lengths.input_range, 0), size=count).tolist()
    outputs = draws.integers(*_range(lengths.output_len, lengths.output_range, 1), size=count).tolist()
    prefix = lengths.prefix_len
    shared: dict[str, Any] = {"prefix": (0,), "prefix_block": prefix} if prefix else {}
    return [TraceRequest(0.0, prefix + a, b, **shared) for a, b in zip(inputs, outputs, strict=True)]


def _range(mean: int, ratio: float, least: int) -> tuple[int, int]:
    """Lowest length and the one after the highest."""
    return max(math.floor(mean * (1 - ratio)), least), max(math.ceil(mean * (1 + ratio)), least) + 1


_REPEAT_BLOCK = 16
"""Tokens of a prefix id of prompts that are sent more than once."""


def sharegpt_prompts(
    path: Path, tokenizer: Path | None, count: int, *, seed: int, output_len: int | None = None
) -> list[TraceRequest]:
    """First messages of conversations in a file of ShareGPT's form, of usual lengths, in the benchmark's order.

    Raises:
        TraceError: the file or the tokenizer cannot be read, or no conversation is left.
    """
    if tokenizer is None:
        raise TraceError(f"{path}: text, whose tokens only a tokenizer counts; give --tokenizer FOLDER")
    turns = read_trace(path, TraceOptions(tokenizer=tokenizer)).requests
    pairs = [(r.prompt_tokens, r.output_tokens) for r in turns]
    random.Random(seed).shuffle(pairs)
    found: list[tuple[int, int]] = []
    for prompt, answer in pairs:
        output = answer if output_len is None else output_len
        if 4 <= prompt <= 1024 and prompt + output <= 2048 and (answer >= 4 or output_len is not None):
            found.append((prompt, output))
    if not found:
        raise TraceError(f"{path}: no conversation with 4 to 1,024 tokens of prompt and at most 2,048 in all")
    return _repeated(found, count, seed)


def custom_prompts(
    path: Path, tokenizer: Path | None, count: int, *, seed: int, output_len: int = 256
) -> list[TraceRequest]:
    """Prompts of a JSONL file, one object a line with ``prompt``, in the benchmark's order; the tokens of a chat
    template are not among them.

    Args:
        output_len: of each request; -1 for what ``output_tokens`` of its line says.

    Raises:
        TraceError: the file or the tokenizer cannot be read, or a line lacks what is needed.
    """
    if tokenizer is None:
        raise TraceError(f"{path}: text, whose tokens only a tokenizer counts; give --tokenizer FOLDER")
    texts: list[str] = []
    outputs: list[int] = []
    for number, line in enumerate(_lines(path), start=1):
        try:
            entry = json.loads(line)
            texts.append(str(entry["prompt"]))
            outputs.append(int(entry["output_tokens"]) if output_len == -1 else output_len)
        except (ValueError, KeyError, TypeError) as error:
            wanted = "prompt and output_tokens" if output_len == -1 else "prompt"
            raise TraceError(f"{path}, line {number}: expected a JSON object with {wanted} ({error})") from error
    pairs = list(zip(count_tokens(texts, tokenizer), outputs, strict=True))
    if not pairs:
        raise TraceError(f"{path}: no prompts")
    random.Random(seed).shuffle(pairs)
    return _repeated(pairs, count, seed)


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in read_text(path).splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError(f"{path}: cannot be read: {error}") from error


def _repeated(found: Sequence[tuple[int, int]], count: int, seed: int) -> list[TraceRequest]:
    """The first `count`; if there are fewer, some drawn again, which begin as they did the first time."""
    order = list(range(min(count, len(found))))
    draws = random.Random(seed)
    order += [draws.randrange(len(found)) for _ in range(count - len(order))]
    if count <= len(found):
        return [TraceRequest(0.0, *found[index]) for index in order]
    requests: list[TraceRequest] = []
    for index in order:
        blocks = -(-found[index][0] // _REPEAT_BLOCK)
        ids = tuple(index * 2**20 + block for block in range(blocks))
        requests.append(TraceRequest(0.0, *found[index], ids, _REPEAT_BLOCK))
    return requests


def timed_prompts(
    path: Path, count: int, *, chunk: int = 16, seconds: float = 1.0, labels: tuple[str, str, str]
) -> Trace:
    """Requests with times and prefix ids (``hash_ids``) from a JSONL file.

    Args:
        chunk: tokens that one prefix id stands for.
        seconds: in one unit of the timestamps: 1, or 1e-3, 1e-6 or 1e-9.
        labels: names of timestamp, input length and output length.

    Raises:
        TraceError: the file cannot be read, or the unit is no usual one.
    """
    unit = next((name for name, size in UNITS.items() if math.isclose(size, seconds)), None)
    if unit is None:
        raise TraceError(f"{seconds:g} seconds in a timestamp's unit; expected one of 1, 0.001, 1e-6, 1e-9")
    arrival, prompt, output = labels
    options = TraceOptions(arrival=arrival, prompt=prompt, output=output, unit=unit, block=chunk)
    return read_trace(path, options).first(count)


@dataclass(frozen=True)
class Dataset:
    """Source of requests, by the benchmark's options.

    Attributes:
        path: of the file; None for random prompts.
        tokenizer: folder of the tokenizer that counts the tokens of texts.
        random: lengths of random prompts.
        sharegpt_output_len: output tokens, in place of those of the answers.
        custom_output_len: output tokens; -1 for what the file says.
        chunk, seconds, labels: as `timed_prompts` takes them.
    """

    name: DatasetName
    path: Path | None
    tokenizer: Path | None
    random: RandomPrompts
    sharegpt_output_len: int | None
    custom_output_len: int
    chunk: int
    seconds: float
    labels: tuple[str, str, str]

    def __post_init__(self) -> None:
        if self.name == "random" and self.path is not None:
            raise TraceError(f"{self.path}: random prompts come from no file; say which --dataset-name it is")
        if self.name != "random" and self.path is None:
            raise TraceError(f"dataset {self.name} comes from a file; give --dataset-path FILE")

    def load(self, count: int, arrivals: Arrivals) -> Trace:
        """`count` requests and when they are due; timed traces say that themselves.

        Raises:
            TraceError: the file or the tokenizer cannot be read, or there is a rate for a timed trace.
        """
        if count < 1:
            raise TraceError(f"{count} prompts; expected at least 1")
        if self.path is None:
            return arriving("random", random_prompts(self.random, count, seed=arrivals.seed), arrivals)
        if self.name == "timed_trace":
            if arrivals != Arrivals(seed=arrivals.seed):
                raise TraceError(f"{self.path}: a timed trace says when requests are due; give no rate beside it")
            return timed_prompts(self.path, count, chunk=self.chunk, seconds=self.seconds, labels=self.labels)
        if self.name == "sharegpt":
            length = self.sharegpt_output_len
            found = sharegpt_prompts(self.path, self.tokenizer, count, seed=arrivals.seed, output_len=length)
        else:
            length = self.custom_output_len
            found = custom_prompts(self.path, self.tokenizer, count, seed=arrivals.seed, output_len=length)
        return arriving(str(self.path), found, arrivals)
