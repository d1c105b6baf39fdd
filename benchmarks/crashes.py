"""What is left of a latency database after kills: ``python -m benchmarks.crashes -o docs/results/crashes.md``.

Processes that run the command are killed (SIGKILL) at random moments, alone and eight at a time; the server is started
anew under them, and the disk fills.  Each process notes what it claims, measures and stores beside the database, and
the database is compared with all notes.  Processes are forked from this one, which has imported the engine, so that a
kill does not have to wait for that; what they run is the command itself, on real kernels of this machine's processor.
"""
# ruff: noqa: T201 - a script prints

import argparse
import ctypes
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.crash_site import RANKS, SOME, Count, Places, Process, living
from benchmarks.postgresql import installed, server

_PATIENCE_S = 300.0
_ORPHAN_S = 15.0

# -- what happens to them -----------------------------------------------------------------------------------------


def killed(places: Places, what: str, kills: int, chance: random.Random) -> Count:
    """Kill one process after the other, each at another moment of its work; a new database now and then."""
    row, began = Count(what), time.monotonic()
    while row.events < kills:
        site, done = places.new(), 0
        for _ in range(min(25, kills - row.events)):
            process = site.start()
            if _wait_for_notes(process, chance.choice((0, 0, 3, *range(3, 60, 3)))):
                time.sleep(chance.uniform(0.0, 0.1))
            else:
                print(f"  {what}: ended by itself with status {process.status}: {process.said()}")
            process.kill()
            done += process.status == -signal.SIGKILL
            row.damaged += not site.intact()
            row.orphans += _orphans([process])
        site.count(row, done)
        print(f"  {what}: {row}")
        if not done:
            raise SystemExit(f"{what}: no process lived long enough to be killed")
    row.seconds = time.monotonic() - began
    return row


def ranks_killed(places: Places, what: str, kills: int, chance: random.Random) -> Count:
    """Kill a process whose ranks are starting or at work, and in turn one of its ranks; none may outlive it."""
    row, began = Count(what), time.monotonic()
    site = places.new(RANKS)
    for turn in range(kills):
        process = site.start()
        while len(process.children()) < 2 and not process.poll():
            time.sleep(0.1)
        if turn % 2:
            _wait_for_notes(process, 3 * chance.randrange(1, 4) + 1)
        else:
            time.sleep(chance.uniform(0.0, 25.0))
        ranks = process.children()
        if turn % 4 == 3 and ranks:
            os.kill(chance.choice(ranks), signal.SIGKILL)
            time.sleep(chance.uniform(0.5, 3.0))
        process.kill()
        row.damaged += not site.intact()
        row.orphans += _orphans([process])
        print(f"  {what}: {turn + 1} of {kills}, {len(ranks)} ranks, {len(process.noted())} notes")
    site.count(row, kills)
    row.seconds = time.monotonic() - began
    return row


def together(places: Places, what: str, rounds: int, count: int, kills: int, chance: random.Random) -> Count:
    """Let processes fill one database until all is measured; some are killed meanwhile, and others take their place."""
    row, began = Count(what), time.monotonic()
    for _ in range(rounds):
        site, killed_here = places.new(limits=SOME), 0
        running = [site.start() for _ in range(count)]
        while killed_here < kills and not all(process.poll() for process in running):
            time.sleep(chance.uniform(0.2, 1.0))
            victim = chance.choice(running)
            if not victim.poll() and victim.noted():
                victim.kill()
                killed_here += 1
                running.remove(victim)
                running.append(site.start())
        ended = Counter(process.wait() for process in running)
        if set(ended) != {0}:
            print(f"  {what}: ended with {dict(ended)}: {[process.said() for process in running]}")
            row.wrong += 1
        row.damaged += not site.intact()
        row.orphans += _orphans(site.processes)
        site.count(row, killed_here)
        print(f"  {what}: {row}")
    row.seconds = time.monotonic() - began
    return row


def restarted(places: Places, what: str, restarts: int, count: int, chance: random.Random) -> Count:
    """Start the server anew under several processes: in good order, and as after a crash."""
    assert places.server is not None
    row, began = Count(what), time.monotonic()
    site = places.new()
    running = [site.start() for _ in range(count)]
    went_on = 0
    for turn in range(restarts):
        for process in running:
            _wait_for_notes(process, 6)
        time.sleep(chance.uniform(0.0, 1.0))
        places.server.stop("immediate" if turn % 2 else "fast")
        time.sleep(chance.uniform(0.0, 2.0))
        places.server.start()
        time.sleep(1.0)
        went_on += sum(not process.poll() for process in running)
        running = [site.start() if process.poll() else process for process in running]
        row.damaged += not site.intact()
    for process in running:
        process.kill()
    row.orphans += _orphans(site.processes)
    statuses = Counter(process.status for process in site.processes)
    print(f"  {what}: {went_on} of {restarts * count} went on; statuses {dict(statuses)}")
    row.wrong += statuses[1]
    site.count(row, restarts)
    row.seconds = time.monotonic() - began
    return row


def filled(places: Places, what: str, times: int, chance: random.Random) -> Count:
    """Let the disk fill while points are stored; then make room, and go on with the same command."""
    row, began = Count(what), time.monotonic()
    with _small_disk(places.folder) as disk:
        site = places.new(under=disk)
        for _ in range(times):
            ballast = None if disk is None else disk / "ballast"
            if ballast is not None:
                free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
                ballast.write_bytes(b"x" * max(0, free - chance.randrange(40_000, 400_000)))
                process = site.start()
            else:
                limit = Path(site.location).stat().st_size + chance.randrange(100_000, 400_000)
                process = site.start(lambda limit=limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
            status = process.wait()
            if status != 2 or "disk" not in process.said():
                print(f"  {what}: status {status}: {process.said()}")
                row.wrong += 1
            if ballast is not None:
                ballast.unlink()
            row.damaged += not site.intact()
        site.count(row, times)
    row.seconds = time.monotonic() - began
    return row


@contextmanager
def _small_disk(folder: Path) -> Generator[Path | None]:
    """A file system of 8 MiB, where this process may mount one; else None, and files of a process are limited."""
    point = folder / "disk"
    point.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", str(point).encode(), b"tmpfs", 0, b"size=8m") != 0:
        yield None
        return
    try:
        yield point
    finally:
        libc.umount2(str(point).encode(), 2)


def _wait_for_notes(process: Process, count: int) -> bool:
    """Until it has noted so much; False if it ended first."""
    deadline = time.monotonic() + _PATIENCE_S
    while not process.poll() and time.monotonic() < deadline:
        if process.notes.read_bytes().count(b"\n") >= count:
            return True
        time.sleep(0.002)
    return False


def _orphans(processes: Iterable[Process]) -> int:
    """Children of these that still live some seconds after them; they are ended."""
    deadline = time.monotonic() + _ORPHAN_S
    left = [pid for process in processes for pid in process.children()]
    while left and time.monotonic() < deadline:
        time.sleep(0.2)
        left = [pid for pid in left if Path(f"/proc/{pid}").exists() and pid in living()]
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(left)


# -- the page -----------------------------------------------------------------------------------------------------

COLUMNS: Mapping[str, str] = {
    "what": "what happened",
    "events": "events",
    "processes": "processes",
    "points": "points stored",
    "lost": "points lost",
    "most": "most lost by one process",
    "twice": "stored twice",
    "wrong": "wrong or gone",
    "damaged": "database damaged",
    "orphans": "orphans",
    "told": "passwords printed",
}


def table(rows: Iterable[Count]) -> str:
    """The rows in Markdown."""
    lines = [" | ".join(COLUMNS.values()), " | ".join("---" if key == "what" else "---:" for key in COLUMNS)]
    lines += [" | ".join(f"{getattr(row, key):,d}" if key != "what" else row.what for key in COLUMNS) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def preload() -> None:
    """Import what measuring needs, and run none of it: a process that has threads cannot be forked."""
    import vllm.distributed
    import vllm.engine.arg_utils
    import vllm.forward_context
    import vllm.model_executor.layers.linear
    import vllm.v1.attention.backends.cpu_attn  # noqa: F401 - for its import


def run(kills: int, seed: int = 0, *, ranks: int, rounds: int, restarts: int, fills: int) -> list[Count]:
    """All of it; what needs PostgreSQL only where it is installed."""
    chance = random.Random(seed)
    preload()
    rows: list[Count] = []
    with tempfile.TemporaryDirectory(prefix="dooly-crashes-") as name:
        files = Places(Path(name))
        rows += [killed(files, "SQLite: one process killed", kills, chance)]
        rows += [together(files, "SQLite: eight processes, some killed", rounds, 8, 3, chance)]
        rows += [filled(files, "SQLite: the disk fills", fills, chance)] if fills else []
        rows += (
            [ranks_killed(files, "SQLite: a process with two ranks, or a rank, killed", ranks, chance)] if ranks else []
        )
        if installed():
            with server() as running:
                served = Places(Path(name), running)
                rows += [killed(served, "PostgreSQL: one process killed", kills, chance)]
                rows += [together(served, "PostgreSQL: eight processes, some killed", rounds, 8, 3, chance)]
                rows += [restarted(served, "PostgreSQL: the server started anew under four", restarts, 4, chance)]
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all and print the table, or replace it in a page; status 1 if anything is not sound."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="of single processes, on each kind of database")
    parser.add_argument("--ranks", type=int, default=20, help="kills of processes that have ranks")
    parser.add_argument("--rounds", type=int, default=5, help="databases that eight processes fill together")
    parser.add_argument("--restarts", type=int, default=20)
    parser.add_argument("--fills", type=int, default=20, help="times that the disk fills")
    parser.add_argument("-o", "--output", type=Path, help="page whose table is replaced")
    options = parser.parse_args(arguments)
    rows = run(
        options.kills, ranks=options.ranks, rounds=options.rounds, restarts=options.restarts, fills=options.fills
    )
    text = table(rows)
    print(text)
    if options.output is not None:
        page = options.output.read_text()
        before, _, after = page.partition("\n| what happened")
        rest = after.partition("\n\n")[2]
        options.output.write_text(f"{before}\n{text}\n\n{rest}")
    return 0 if all(row.sound for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
