"""Measure the points of Parquet files on this machine, each in a database of its own as any other point.

    python scripts/measure_points.py POINTS.parquet... --db OTHER.sqlite

For points that are measured again on another day or machine, and for held-out ones, which must not enter a database
that formulas are fitted from.  `dooly db export` writes the result; `dooly db diff` compares.
"""

import argparse
import sys
from collections import defaultdict
from pathlib import Path

from dooly.database import Database, Point, Status
from dooly.database.exchange import read_parquet
from dooly.errors import DoolyError
from dooly.executor import Precision, environment_for, machine
from dooly.executor.runners import make_runner
from dooly.executor.session import Unsupported, open_session
from dooly.ir import parse_program


def main(argv: list[str] | None = None) -> int:
    """Measure every point that succeeded where the files come from; say how many did here."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("points", nargs="+", type=Path)
    parser.add_argument("--db", required=True)
    options = parser.parse_args(argv)
    wanted: dict[str, dict[Point, None]] = defaultdict(dict)
    try:
        for path in options.points:
            for record in read_parquet(path):
                if record.measurement.status is Status.OK:
                    wanted[record.operation.text].setdefault(record.measurement.point)
        taken, given_up = _measure(wanted, Database(options.db))
    except DoolyError as error:
        sys.stderr.write(f"measure_points: {error}\n")
        return 2
    sys.stdout.write(f"{taken} points measured, {given_up} given up\n")
    return 0


def _measure(wanted: dict[str, dict[Point, None]], database: Database) -> tuple[int, int]:
    here = machine()
    taken = given_up = 0
    with open_session(here) as session:
        for text, points in wanted.items():
            (operation,) = parse_program(text).operations
            environment = environment_for(operation, here)
            database.add_operation(operation.signature, operation.target, text)
            older = tuple(session.layers)
            runner = None
            for point in points:
                claim = database.claim(operation.signature, environment, point)
                if claim is None:
                    continue
                try:
                    runner = runner or make_runner(operation, session)
                    samples = session.measure(runner.trial(point), Precision.usual(here.torch_device))
                except (Unsupported, MemoryError) as error:
                    database.record_skipped(claim, str(error))
                    given_up += 1
                else:
                    taken += database.record_ok(claim, samples)
            for name in set(session.layers) - set(older):
                del session.layers[name]  # its weights would stay
    return taken, given_up


if __name__ == "__main__":
    raise SystemExit(main())
