"""Inputs in processes of their own, under limits of time and memory, and what came of them."""

import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from types import FrameType
from typing import TYPE_CHECKING

from dooly.errors import DoolyError
from tests.fuzz.readers import READERS, Reader

if TYPE_CHECKING:
    from ctypes import Array, c_longlong

__all__ = ["MEMORY_BYTES", "SECONDS", "Finding", "attempt", "input_of", "run"]

SECONDS = 5
"""Processor time that one input may take; where the process does not even notice, thirty times that by the clock."""
MEMORY_BYTES = 2 * 2**30
"""Memory that one process may take beyond what it had when it began."""


@dataclass(frozen=True)
class Finding:
    """An input that ended in something else than a value or one clear line.

    Attributes:
        kind: error and the place in dooly that raised it; equal kinds have one cause.
        number: of the input.
        detail: the traceback.
    """

    kind: str
    number: int
    detail: str


class _TooLong(BaseException):
    """Beyond `SECONDS`; no reader catches it."""


def input_of(reader: Reader, seeds: Sequence[bytes], number: int) -> bytes:
    """Input of that number; the same on every machine."""
    return reader.mutate(Random(f"{reader.name} {number}"), seeds)


def attempt(reader: Reader, data: bytes, folder: Path, number: int = 0) -> tuple[bool, Finding | None]:
    """Read one input, and say whether it was accepted, and what else than a value or a clear refusal came of it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            reader.read(data, folder)
    except DoolyError as error:
        message = str(error)
        if message and all(c.isprintable() or c == "\n" for c in message):
            return False, None
        return False, Finding(f"{type(error).__name__} with a message that is no text", number, repr(message))
    except _TooLong as error:
        return False, Finding(f"longer than {SECONDS} s: {_place(error)}", number, traceback.format_exc())
    except Exception as error:
        return False, Finding(f"{type(error).__name__}: {_place(error)}", number, traceback.format_exc())
    return True, None


def _place(error: BaseException) -> str:
    """The innermost function of dooly."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/dooly/" in frame.filename]
    return f"{frames[-1].filename.rpartition('/dooly/')[2]} {frames[-1].name}" if frames else "outside dooly"


def run(reader: Reader, numbers: range, processes: int) -> Iterator[tuple[int, int, Finding | None]]:
    """Try the inputs of these numbers.

    Yields:
        How many inputs were tried, how many of them were accepted, and what was found at the last, if anything.
    """
    parts = [numbers[start::processes] for start in range(processes)]
    workers = [_Worker(reader, part) for part in parts if part]
    try:
        while workers:
            for worker in list(workers):
                yield from worker.reports()
                if worker.done:
                    workers.remove(worker)
    finally:
        for worker in workers:
            worker.stop()


class _Worker:
    """A process that tries inputs one by one, and is replaced when one of them kills or blocks it."""

    def __init__(self, reader: Reader, numbers: range) -> None:
        self._reader, self._numbers, self._next, self.done = reader, numbers, 0, False
        self._start()

    def _start(self) -> None:
        spawn = get_context("spawn")
        self._connection, theirs = spawn.Pipe()
        self._unreported = spawn.Array("q", 2, lock=False)
        arguments = (self._reader.name, self._numbers[self._next :], theirs, self._unreported)
        self._process = spawn.Process(target=_work, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        self._connection.recv()  # ready: seeds are read

    def reports(self) -> Iterator[tuple[int, int, Finding | None]]:
        kind = f"blocked for {30 * SECONDS} s"
        try:
            if self._connection.poll(30 * SECONDS):
                tried, accepted, finding = self._connection.recv()
                self._next += tried
                yield tried, accepted, finding
                self.done = self._next == len(self._numbers)
                return
        except EOFError:
            kind = "the process died"
        self.stop()
        tried, accepted = self._unreported
        self._next += tried + 1
        number = self._numbers[self._next - 1]
        yield tried + 1, accepted, Finding(kind, number, f"at input {number}")
        self.done = self._next == len(self._numbers)
        if not self.done:
            self._start()

    def stop(self) -> None:
        self._process.kill()
        self._process.join()


_REPORT_S = 1.0


def _work(name: str, numbers: range, connection: Connection, unreported: "Array[c_longlong]") -> None:
    """Try the seeds, which import what is imported late, then inputs; report after each finding and every second.

    Args:
        unreported: inputs since the last report, tried and accepted: what is left to tell of a process that dies.
    """
    reader = next(each for each in READERS if each.name == name)
    seeds = reader.seeds()
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            attempt(reader, seed, Path(folder))
    signal.signal(signal.SIGVTALRM, _stop)
    sys.setrecursionlimit(1000)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (used + MEMORY_BYTES, used + MEMORY_BYTES))
    connection.send(None)
    reported = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for number in numbers:
            data = input_of(reader, seeds, number)
            signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
            fine, finding = attempt(reader, data, Path(folder), number)
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            unreported[0] += 1
            unreported[1] += fine
            if finding is not None or time.monotonic() - reported > _REPORT_S or number == numbers[-1]:
                connection.send((*unreported, finding))
                unreported[:], reported = (0, 0), time.monotonic()


def _stop(signum: int, frame: FrameType | None) -> None:
    raise _TooLong
