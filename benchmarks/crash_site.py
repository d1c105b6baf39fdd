"""Processes that run `dooly profile` until they are killed, and what the database holds beside what they noted."""

import json
import os
import runpy
import signal
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.postgresql import Server
from dooly.database import Database, Point, Samples, Status
from dooly.database.soundness import problems
from dooly.executor.host.load import load_for
from dooly.hardware.environment import host_environment
from dooly.hardware.machine import machine
from dooly.host import host_parts, is_host_part

__all__ = ["FEW", "RANKS", "SOME", "Count", "Places", "Process", "Site", "living"]

SMALL = """
graph "small" {
  config H = 64, I = 96, Nq = 2, D = 32
  request T
  captured 0
  %x = input() : f32[T, H]
  %n = weight() : f32[H]
  %wq = weight() : f32[3*D*Nq, H]
  %wo = weight() : f32[H, D*Nq]
  %wg = weight() : f32[2*I, H]
  %wd = weight() : f32[H, I]
  %h = rms_norm(%x, %n) {eps = 1e-05} : f32[T, H]
  %qkv = linear(%h, %wq) : f32[T, 3*D*Nq]
  %q, %k, %v = split(%qkv) {dim = 1} : f32[T, D*Nq], f32[T, D*Nq], f32[T, D*Nq]
  %a = attention(%q, %k, %v) {ATTRS} : f32[T, D*Nq]
  %o = linear(%a, %wo) : f32[T, H]
  %gu = linear(%o, %wg) : f32[T, 2*I]
  %g = silu_and_mul(%gu) : f32[T, I]
  %d = linear(%g, %wd) : f32[T, H]
  return %d
}
""".replace(
    "ATTRS",
    'backend = "CPU_ATTN", causal = true, head_size = D, heads = Nq, kv_dtype = "f32", kv_heads = Nq, '
    "soft_cap = none, window = none",
)
"""A layer whose kernels take microseconds."""

RANKS = """
graph "ranks" {
  config H = 64
  request T
  captured 0
  %x = input() : f32[T, H]
  %y = all_reduce(%x) {group = "tp", ranks = 2} : f32[T, H]
  return %y
}
"""
"""Work of two ranks, which are child processes."""

MANY = ("--sweep", "vidur", "--max-tokens", "512", "--max-requests", "16", "--max-context", "512")
"""More points than a few kills can do without."""

SOME = ("--sweep", "vidur", "--max-tokens", "64", "--max-requests", "4", "--max-context", "128")

FEW = ("--max-tokens", "16", "--max-requests", "4", "--max-context", "64")

MARK = "DOOLY_CRASH"
"""Environment variable by which the children of a process are found."""

_PATIENCE_S = 300.0
_ORPHAN_S = 15.0


@dataclass
class Count:
    """A row of the table.

    Attributes:
        events: kills, restarts, or times that the disk was full.
        processes: that ran the command.
        points: stored in the end.
        lost: points that a process had claimed when it ended, or that were measured, and that are not stored by it.
        most: of those by one event in one process.
        twice: points that two processes have stored.
        wrong: points whose samples are not those that were measured, or that were stored and are gone.
        damaged: times that the database did not pass its check.
        orphans: child processes that outlived theirs by more than some seconds.
        told: times that a password appeared in what a process printed.
    """

    what: str
    events: int = 0
    processes: int = 0
    points: int = 0
    lost: int = 0
    most: int = 0
    twice: int = 0
    wrong: int = 0
    damaged: int = 0
    orphans: int = 0
    told: int = 0
    seconds: float = 0.0

    @property
    def sound(self) -> bool:
        """Whether all is as it should be."""
        return self.most <= 1 and not any((self.twice, self.wrong, self.damaged, self.orphans, self.told))


@dataclass
class Process:
    """A process that runs `dooly profile`, and where it notes what it does and prints."""

    pid: int
    mark: str
    notes: Path
    output: Path
    status: int | None = None

    def noted(self) -> list[dict[str, Any]]:
        """What it has noted; the last line may have been cut."""
        found: list[dict[str, Any]] = []
        for line in self.notes.read_text().splitlines():
            with suppress(ValueError):
                found.append(json.loads(line))
        return found

    def said(self) -> str:
        """What it has printed of an error."""
        lines = self.output.read_text(errors="replace").splitlines()
        return "\n".join(line for line in lines if line.startswith(("dooly: ", "Traceback")))

    def poll(self) -> bool:
        """Whether it has ended."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if pid else None
        return self.status is not None

    def wait(self, patience_s: float = _PATIENCE_S) -> int:
        """Its exit status; negative for the signal that ended it."""
        deadline = time.monotonic() + patience_s
        while not self.poll():
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
            time.sleep(0.005)
        assert self.status is not None
        return self.status

    def kill(self) -> None:
        """Kill it as the kernel does when memory is short."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.wait()

    def children(self) -> list[int]:
        """Processes that it has started, and theirs, that are alive."""
        return [pid for pid in living() if pid != self.pid and _environment(pid).get(MARK) == self.mark]


def living() -> list[int]:
    """Numbers of the processes of this machine that have not ended."""
    found: list[int] = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if entry.read_text().rpartition(")")[2].split()[0] not in "ZX":
                found.append(int(entry.parent.name))
    return found


def _environment(pid: int) -> dict[str, str]:
    try:
        words = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return {}
    return dict(word.split("=", 1) for word in words if "=" in word)


def _run(command: Sequence[str]) -> int:
    """Exit status of ``dooly`` with these arguments, in this process."""
    sys.argv = ["dooly", *command]
    try:
        runpy.run_module("dooly.cli", run_name="__main__")
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


class Site:
    """A database, the processes that fill it, and what they noted.

    Args:
        folder: for notes and outputs.
        location: of the database.
        model: text of an IR.
        limits: options that say how many points there are.
        password: that nothing may print.
    """

    def __init__(
        self, folder: Path, location: str, model: str = SMALL, limits: Sequence[str] = MANY, password: str = ""
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.location, self.limits, self.password = folder, location, limits, password
        self.model = folder / "small.ir"
        self.model.write_text(model)
        self.processes: list[Process] = []
        _know_host(location)

    def start(self, prepare: Callable[[], None] = lambda: None) -> Process:
        """Start another process."""
        mark = f"{os.getpid()}-{self.folder.name}-{len(self.processes)}"
        notes, output = self.folder / f"{mark}.notes", self.folder / f"{mark}.output"
        notes.touch()
        output.touch()
        command = ["profile", str(self.model), "--budget", "3600", "--db", self.location, *self.limits]
        pid = os.fork()
        if pid == 0:
            try:
                _become(mark, output)
                prepare()
                _note(notes)
                status = _run(command)
            except BaseException as error:  # whatever a user would see as a traceback
                sys.stderr.write(f"Traceback: {error!r}\n")
                status = 1
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        process = Process(pid, mark, notes, output)
        self.processes.append(process)
        return process

    def intact(self) -> bool:
        """Whether the database passes its own check and dooly's."""
        if "://" not in self.location:
            with closing(sqlite3.connect(self.location)) as raw:
                if raw.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
                    return False
        with closing(Database(self.location)) as database:
            return not problems(record for record in database.records() if not is_host_part(record.operation.signature))

    def count(self, row: Count, events: int) -> None:
        """Compare what is stored with what was noted, and add it to a row."""
        stored = self._stored()
        takers: Counter[tuple[str, str]] = Counter()
        known: dict[tuple[str, str], list[list[float]]] = {}
        for process in self.processes:
            claimed: dict[tuple[str, str], list[float] | None] = {}
            for note in process.noted():
                key = note["signature"], note["point"]
                if note["what"] == "claimed":
                    claimed[key] = None
                elif note["what"] in ("released", "failed"):
                    claimed.pop(key, None)
                elif note["what"] == "measured":
                    claimed[key] = note["us"]
                    known.setdefault(key, []).append(note["us"])
                elif note["what"] == "stored":
                    takers[key] += 1
            lost = sum(us is None or stored.get(key) != us for key, us in claimed.items())
            row.lost += lost
            row.most = max(row.most, lost)
            row.told += bool(self.password) and self.password in process.output.read_text(errors="replace")
        row.events += events
        row.processes += len(self.processes)
        row.points += len(stored)
        row.twice += sum(count > 1 for count in takers.values())
        row.wrong += sum(us not in known.get(key, []) for key, us in stored.items())
        row.wrong += sum(key not in stored for key in takers)

    def _stored(self) -> dict[tuple[str, str], list[float]]:
        with closing(Database(self.location)) as database:
            return {
                (record.operation.signature, record.measurement.point.json): list(record.measurement.samples.values_us)
                for record in database.records()
                if record.measurement.status is Status.OK and not is_host_part(record.operation.signature)
            }


def _know_host(location: str) -> None:
    """Store some host time, so that no engine has to be started for it."""
    here = machine()
    with closing(Database(location)) as database:
        for part in host_parts()[:3]:
            database.add_operation(part, part, f"pseudo operation {part}")
            points = [Point.of(N=n) for n in (20, 40, 60)] if part == "host_dispatch" else load_for(here).points
            for point in points:
                claim = database.claim(part, host_environment(here), point)
                if claim is not None:
                    database.record_ok(claim, Samples((5.0, 5.0, 5.0)))


def _become(mark: str, output: Path) -> None:
    """A process like one that was started from a shell: with its own session, environment and output."""
    os.setsid()
    os.environ[MARK] = mark
    sink = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _note(notes: Path) -> None:
    """From now on, write down what is claimed, measured and stored: before and after the database does it."""
    sink = os.open(notes, os.O_WRONLY | os.O_APPEND)
    claim, record_ok, record_failed, release = (
        Database.claim,
        Database.record_ok,
        Database.record_failed,
        Database.release,
    )

    def write(what: str, signature: str, point: Point, samples: Samples | None = None) -> None:
        us = None if samples is None else [round(value, 4) for value in samples.values_us]
        os.write(
            sink, f"{json.dumps({'what': what, 'signature': signature, 'point': point.json, 'us': us})}\n".encode()
        )

    def noting_claim(self: Database, signature: str, environment: Any, point: Point, **options: Any) -> Any:
        made = claim(self, signature, environment, point, **options)
        if made is not None:
            write("claimed", signature, point)
        return made

    def noting_record(self: Database, made: Any, samples: Samples) -> bool:
        write("measured", made.operation, made.point, samples)
        stored = record_ok(self, made, samples)
        write("stored" if stored else "refused", made.operation, made.point)
        return stored

    def noting_failure(self: Database, made: Any, reason: str) -> bool:
        stored = record_failed(self, made, reason)
        write("failed", made.operation, made.point)
        return stored

    def noting_release(self: Database, made: Any) -> None:
        release(self, made)
        write("released", made.operation, made.point)

    Database.claim, Database.record_ok = noting_claim, noting_record
    Database.record_failed, Database.release = noting_failure, noting_release


@dataclass
class Places:
    """Where databases are made."""

    folder: Path
    server: Server | None = None
    made: int = 0

    def new(self, model: str = SMALL, limits: Sequence[str] = MANY, under: Path | None = None) -> Site:
        """A new database: of the server where there is one, else a file."""
        self.made += 1
        folder = self.folder / f"{'pg' if self.server else 'file'}-{self.made}"
        if self.server is None:
            return Site(folder, str((under or self.folder) / f"{folder.name}.sqlite"), model, limits)
        return Site(folder, self.server.create(f"dooly_{self.made}"), model, limits, self.server.password)
