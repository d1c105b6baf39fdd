"""Ranks: processes of this host, one for each device, that run one collective together and time it."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NoReturn

from dooly.database import Point, Samples
from dooly.executor.timing.cpu import Precision
from dooly.executor.trial import Unsupported
from dooly.hardware.machine import Machine
from dooly.ir import Operation

__all__ = ["Ranks"]

_START_S, _ANSWER_S = 300.0, 120.0
_MOST_POINTS = 80
"""Custom all-reduce has room for 131,072 captured calls; a point takes up to some 500, thrice where a GPU is slowed
down."""


class Ranks:
    """The processes, started when first needed.  One that fails takes the others down: they may wait for it forever.

    Args:
        machine: where they run; each has its threads, or one of its GPUs.
        count: how many.
    """

    def __init__(self, machine: Machine, count: int) -> None:
        self.count = count
        self._machine = machine
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._processes: list[subprocess.Popen[bytes]] = []
        self._connections: list[Connection] = []
        self._points = 0

    def call(self, operation: Operation, point: Point) -> list[tuple[tuple[Any, ...], Any]]:
        """Do it once; operands and result of each rank.  Raises as `measure` does."""
        return self._ask(operation, point, None)

    def measure(self, operation: Operation, point: Point, precision: Precision) -> Samples:
        """Time it; the time of each sample is that of the slowest rank.

        Raises:
            Unsupported: the engine cannot do this on these ranks.
            Slowed: a rank's GPU is slower than it should be.
            MemoryError: a rank has no room.
            RuntimeError: a rank failed, ended, or did not answer in time.
        """
        return self._ask(operation, point, precision)[0]

    def close(self) -> None:
        """End the processes; idempotent."""
        for process in self._processes:
            process.kill()
            process.wait()
        for connection in self._connections:
            connection.close()
        self._processes, self._connections, self._points = [], [], 0
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _ask(self, operation: Operation, point: Point, precision: Precision | None) -> list[Any]:
        if self._points >= _MOST_POINTS:
            self.close()
        if not self._processes:
            self._start()
        self._points += 1
        return self._answers((operation, point, precision), _ANSWER_S)

    def _start(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="dooly-ranks-")
        for rank in range(self.count):
            mine, theirs = Pipe()
            command = [sys.executable, "-m", "dooly.executor.rank", str(theirs.fileno()), str(os.getpid())]
            with self._log(rank).open("wb") as log:
                # A session of its own: an interrupt from the keyboard is for the process that asks.
                process = subprocess.Popen(
                    command, stdout=log, stderr=log, pass_fds=[theirs.fileno()], start_new_session=True
                )
            theirs.close()
            self._processes.append(process)
            self._connections.append(mine)
        for rank, connection in enumerate(self._connections):
            connection.send((self._machine, rank, self.count, self._folder.name))
        self._answers(None, _START_S)

    def _log(self, rank: int) -> Path:
        assert self._folder is not None
        return Path(self._folder.name) / f"rank-{rank}.log"

    def _answers(self, question: object, patience_s: float) -> list[Any]:
        """Return what each rank answers, in their order."""
        answers: dict[int, Any] = {}
        deadline = time.monotonic() + patience_s
        for connection in self._connections:
            if question is not None:
                with suppress(BrokenPipeError):  # it has ended, which is noticed below
                    connection.send(question)
        while len(answers) < self.count:
            open_ones = [each for rank, each in enumerate(self._connections) if rank not in answers]
            ready = wait(open_ones, deadline - time.monotonic())
            if not ready:
                missing = [rank for rank in range(self.count) if rank not in answers]
                self._fail(RuntimeError(f"no answer from rank {missing[0]} in {patience_s:.0f} s"))
            for rank in [rank for rank, each in enumerate(self._connections) if each in ready]:
                try:
                    answer = self._connections[rank].recv()
                except (EOFError, ConnectionResetError):
                    self._processes[rank].wait()
                    self._fail(RuntimeError(f"rank {rank} ended"))
                if isinstance(answer, Exception) and not isinstance(answer, Unsupported):
                    self._fail(answer)
                answers[rank] = answer
        for answer in answers.values():
            if isinstance(answer, Unsupported):  # all say so, before any has waited for another
                raise answer
        return [answers[rank] for rank in range(self.count)]

    def _fail(self, error: Exception) -> NoReturn:
        """End all; if one had ended already, that is why the others failed."""
        if isinstance(error, RuntimeError) and (ended := self._ended()):
            error = RuntimeError(self._how_it_ended(ended[0]))
        self.close()
        raise error

    def _ended(self) -> list[int]:
        """Ranks whose process is gone; the others may notice it a moment before the system says so."""
        for _ in range(10):
            ended = [rank for rank, process in enumerate(self._processes) if process.poll() is not None]
            if ended:
                return ended
            time.sleep(0.1)
        return []

    def _how_it_ended(self, rank: int) -> str:
        code = self._processes[rank].wait()
        lines = self._log(rank).read_text(errors="replace").strip().splitlines()
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with status {code}"
        return f"rank {rank} ended {how}" + (f": {lines[-1][:200]}" if lines else "")
