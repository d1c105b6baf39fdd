"""Measure the points of Parquet files on this machine, each in a database of its own as any other point.

    python scripts/measure_points.py POINTS.parquet... --db OTHER.sqlite --budget SECONDS

For points that are measured again on another day or machine, and for held-out ones, which must not enter a database
that formulas are fitted from.  `dooly db export` writes the result; `dooly db diff` compares.  Several processes may
share the work, and the same command goes on where one was ended.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from dooly.database import Database, Point, Status
from dooly.database.exchange import read_parquet
from dooly.errors import DoolyError
from dooly.executor import Plan, Ranges, Row, run_plan
from dooly.executor.runners import why_not
from dooly.hardware.environment import environment_for
from dooly.hardware.machine import Machine, machine
from dooly.ir import Operation, parse_program
from dooly.workspace.shipped import measured_models

_ONLY_THESE = Ranges(sweep="vidur")
"""A fixed grid: no point is chosen beyond those that are given."""


def main(argv: list[str] | None = None) -> int:
    """Measure every point that succeeded where the files come from; say how many did here."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("points", nargs="+", type=Path)
    parser.add_argument("--db", required=True)
    parser.add_argument("--budget", type=float, default=600.0, help="wall seconds (default: %(default)g)")
    options = parser.parse_args(argv)
    try:
        database, here = Database(options.db), machine()
        rows = tuple(_row(operation, points, database, here) for operation, points in _wanted(options.points).items())
        outcome = run_plan(Plan(rows, _ONLY_THESE, here, host_s=0.0), database, budget_s=options.budget)
    except DoolyError as error:
        sys.stderr.write(f"measure_points: {error}\n")
        return 2
    given_up, left = outcome.failed + outcome.skipped, len(outcome.left)
    sys.stdout.write(f"{outcome.taken} points measured, {given_up} given up, {left} operations left\n")
    return 0


def _wanted(paths: Iterable[Path]) -> Mapping[Operation, tuple[Point, ...]]:
    """Points that succeeded, once each, by operation; with its uses, which say what the engine runs after the model."""
    uses = {operation.signature: operation.uses for operation in measured_models().operations}
    wanted: dict[str, dict[Point, None]] = defaultdict(dict)
    for path in paths:
        for record in read_parquet(path):
            if record.measurement.status is Status.OK:
                wanted[record.operation.text].setdefault(record.measurement.point)
    operations = {parse_program(text).operations[0]: tuple(points) for text, points in wanted.items()}
    return {replace(each, uses=uses.get(each.signature, ())): points for each, points in operations.items()}


def _row(operation: Operation, points: Iterable[Point], database: Database, here: Machine) -> Row:
    environment = environment_for(operation, here)
    known = {each.point for each in database.points(operation.signature, environment, status=None)}
    return Row(
        operation=operation,
        environment=environment,
        missing=tuple(point for point in points if point not in known),
        refine=False,
        covered=len(known),
        failed=0,
        share=0.0,
        estimate_s=0.0,
        saved_s=0.0,
        skip=why_not(operation, here),
    )


if __name__ == "__main__":
    raise SystemExit(main())
