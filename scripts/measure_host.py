"""Measure a machine's host, and the front of its server, while time lasts; all that was measured is kept, raw.

    python scripts/measure_host.py OUT [--model llama-3.1-8b] [--until SECONDS] [--db FILE] [-- FLAGS OF VLLM SERVE]

OUT/front.json.gz is a recording of the real API server under loads that tell the parts of its front from one another:
single requests of several lengths, many at once, decoding, and prompts beside decoding.  OUT/host.parquet has the steps
of the engine by itself, as `dooly profile` measures them.  What the time does not suffice for is left out.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from dooly.engine.loads import Load
from dooly.errors import DoolyError
from dooly.evaluate import record_served, save_served
from dooly.workspace.lowering import model_path

FRONT = (
    *(Load(f"alone_{tokens}", tokens, 2, 8, concurrency=1) for tokens in (16, 256, 1024, 4096, 8000)),
    *(Load(f"burst_{count}_{tokens}", tokens, 2, count) for count, tokens in ((16, 128), (64, 128), (256, 128))),
    *(Load(f"burst_{count}_{tokens}", tokens, 2, count) for count, tokens in ((16, 1024), (48, 1024))),
    *(Load(f"decode_{count}", 32, 192, count) for count in (1, 4, 16, 64, 256)),
    Load("mixed_6", 640, 96, 48, 0.9, rate=6.0),
    Load("mixed_20", 300, 96, 120, 0.9, rate=20.0),
)
"""Loads that no prediction is judged by."""

SMALL = (Load("alone_16", 16, 2, 3, concurrency=1), Load("burst_6_40", 40, 2, 6), Load("decode_2", 8, 24, 2))
"""Enough to see that all of it runs."""

_MEASURE = """
import sys
from dooly.database import Database
from dooly.executor.host.measure import measure_host
from dooly.hardware.machine import machine
print(measure_host(Database(sys.argv[1]), machine(), lambda text: print(text, flush=True)), "points of host time")
"""


def main(argv: list[str] | None = None) -> int:
    """Record the front, then measure the host until the time is up; say what there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="llama-3.1-8b")
    parser.add_argument("--until", type=float, default=470.0, help="wall seconds for all of it (default: %(default)g)")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--db", type=Path, default=Path("host.sqlite"))
    given = sys.argv[1:] if argv is None else argv
    own, flags = (given[: given.index("--")], given[given.index("--") + 1 :]) if "--" in given else (given, [])
    options = parser.parse_args(own, argparse.Namespace(flags=flags))
    end = time.monotonic() + options.until
    options.out.mkdir(parents=True, exist_ok=True)
    _record_front(options)
    _measure_host(options.db, end - time.monotonic())
    command = [sys.executable, "-m", "dooly.cli", "db", "export", str(options.out / "host.parquet")]
    return subprocess.run([*command, "--db", str(options.db)]).returncode


def _record_front(options: argparse.Namespace) -> None:
    path, loads = options.out / "front.json.gz", SMALL if options.small else FRONT
    try:
        record_served(
            model_path(options.model),
            options.flags,
            loads,
            repeats=options.repeats,
            keep=lambda served: save_served(served, path),
            note=_say,
        )
    except DoolyError as error:  # the host is measured all the same
        _say(f"front: {error}")


def _measure_host(database: Path, seconds: float) -> None:
    """In a process group of its own: engines are processes, too, and end with it."""
    process = subprocess.Popen([sys.executable, "-c", _MEASURE, str(database)], start_new_session=True)
    try:
        process.wait(max(1.0, seconds))
    except subprocess.TimeoutExpired:
        _say("host: the time is up; what was committed is kept")
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
