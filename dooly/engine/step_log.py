"""Steps of an engine that serves elsewhere, as a file that grows while it runs: written there, read here.

Binary, machine byte order, little to write: a header of fixed size a step, then one row of 32-bit numbers for each
column of its requests.  A process that is killed loses at most the step it was writing.
"""

import struct
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from dooly.batch import MODES
from dooly.errors import SimulationError

__all__ = ["LoggedRequest", "LoggedStep", "StepLog", "read_step_log"]

MAGIC = b"dooly step log 1\n"
_REQUEST = struct.Struct("=cIIdH")
_STEP = struct.Struct("=c6dffBIHHH")
_MODES = ("", *MODES)


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """A request as the engine core took it in.

    Attributes:
        number: of this file, from 0.
        name: the core's id of it, which begins with the server's.
        prompt_tokens: length of its prompt.
        arrived_s: when the core's input thread had decoded it, in seconds of time.perf_counter; nan if unseen.
    """

    number: int
    name: str
    prompt_tokens: int
    arrived_s: float


@dataclass(frozen=True, slots=True)
class LoggedStep:
    """A step of the engine core; moments in seconds of time.perf_counter, as of `dooly.engine.probe.SeenStep`.

    Attributes:
        start_s, scheduled_s, called_s, issued_s, ready_s, end_s: composing, calling, results; nan if unseen.
        device_us: time of its kernels on the device; nan if unseen.
        gap_us: from the end of the kernels of the step before to the beginning of its own; nan if unseen.
        mode: CUDA graph mode; empty if unseen.
        padded: tokens after padding to a captured size.
        numbers: requests of the batch, by `LoggedRequest.number`.
        requests: (new tokens, cached tokens) of each.
        admitted: places in `numbers` of requests taken up first now: their cached tokens are prefix-cache hits.
        preempted: numbers of requests that lost their blocks.
    """

    start_s: float
    scheduled_s: float
    called_s: float
    issued_s: float
    ready_s: float
    end_s: float
    device_us: float
    gap_us: float
    mode: str
    padded: int
    numbers: tuple[int, ...]
    requests: tuple[tuple[int, int], ...]
    admitted: tuple[int, ...]
    preempted: tuple[int, ...]


class StepLog:
    """Writes a log; each entry is in the file when the call returns."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        file.write(MAGIC)

    def request(self, request: LoggedRequest) -> None:
        """Add a request, before the first step that has it."""
        name = request.name.encode()
        head = _REQUEST.pack(b"R", request.number, request.prompt_tokens, request.arrived_s, len(name))
        self._file.write(head + name)

    def step(self, step: LoggedStep) -> None:
        """Add a step."""
        head = _STEP.pack(
            b"S",
            step.start_s,
            step.scheduled_s,
            step.called_s,
            step.issued_s,
            step.ready_s,
            step.end_s,
            step.device_us,
            step.gap_us,
            _MODES.index(step.mode),
            step.padded,
            len(step.numbers),
            len(step.admitted),
            len(step.preempted),
        )
        new, cached = zip(*step.requests, strict=True)
        columns = (step.numbers, new, cached, step.admitted, step.preempted)
        self._file.write(b"".join((head, *(array("i", column).tobytes() for column in columns))))


def read_step_log(path: str | Path) -> tuple[list[LoggedRequest], list[LoggedStep]]:
    """Read requests and steps; an entry that was being written when the process ended is left out.

    Raises:
        SimulationError: the file cannot be read or is no step log.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise SimulationError(f"{path}: cannot read: {error.strerror}") from error
    if not content.startswith(MAGIC):
        raise SimulationError(f"{path}: not a step log of this release; record again")
    requests: list[LoggedRequest] = []
    steps: list[LoggedStep] = []
    for entry in _entries(content):
        (requests if isinstance(entry, LoggedRequest) else steps).append(entry)  # pyright: ignore[reportArgumentType]
    return requests, steps


def _entries(content: bytes) -> Iterator[LoggedRequest | LoggedStep]:
    at = len(MAGIC)
    while at < len(content):
        try:
            if content[at : at + 1] == b"R":
                _, number, prompt, arrived_s, length = _REQUEST.unpack_from(content, at)
                at += _REQUEST.size
                name = content[at : at + length]
                if len(name) < length:
                    return
                at += length
                yield LoggedRequest(number, name.decode(), prompt, arrived_s)
            else:
                _, *timed, mode, padded, count, admitted, preempted = _STEP.unpack_from(content, at)
                at += _STEP.size
                sizes = (count, count, count, admitted, preempted)
                columns = _columns(content, at, sizes)
                at += 4 * sum(sizes)
                numbers, new, cached, taken_up, lost = columns
                pairs = tuple(zip(new, cached, strict=True))
                yield LoggedStep(*_times(timed), _MODES[mode], padded, numbers, pairs, taken_up, lost)
        except struct.error:
            return


def _times(timed: Sequence[float]) -> tuple[float, float, float, float, float, float, float, float]:
    """The first eight fields of a step."""
    start_s, scheduled_s, called_s, issued_s, ready_s, end_s, device_us, gap_us = timed
    return start_s, scheduled_s, called_s, issued_s, ready_s, end_s, device_us, gap_us


def _columns(content: bytes, at: int, sizes: Sequence[int]) -> list[tuple[int, ...]]:
    """Rows of 32-bit numbers of these lengths, from this place on."""
    flat = struct.unpack_from(f"={sum(sizes)}i", content, at)
    columns: list[tuple[int, ...]] = []
    for size in sizes:
        columns.append(flat[:size])
        flat = flat[size:]
    return columns
