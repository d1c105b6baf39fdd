"""Write docs/results/accuracy.md from what ships with dooly: python -m scripts.accuracy_page"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dooly.database import Measurement, Status
from dooly.database.exchange import read_parquet
from dooly.errors import FitError
from dooly.evaluate.holdout import Unseen, judge, unseen_errors
from dooly.files import write_text
from dooly.fit import ENOUGH, fit_families
from dooly.hardware.environment import at_home
from dooly.hardware.machine import Machine
from dooly.ir import Kind, Operation, parse_program
from dooly.report import Column, Table, markdown
from dooly.workspace.shipped import DATA, evaluation, measured_models, measured_on, measurements
from scripts.zero_shot import BUDGETS_S, STEPS, LeftOut, left_out, observed

__all__ = ["main"]

PAGE = Path(__file__).resolve().parent.parent / "docs" / "results" / "accuracy.md"

GOALS = {"gemm": 3.0, "region": 5.0, "attention": 5.0, "moe": 6.0, "collective": 8.0}

HEAD = """# How good the formulas are

Written by `make reports` from the measurements that ship. Errors are of device time of single operations, predicted
over measured less one, as absolute values. `dooly formulas` prints each formula with its own.

## Held-out points

Formulas are fitted to the points of the adaptive sweep. The held-out points were drawn at random over all that the
sweep covers, a few for each operation, and no fit has seen them; those that a later sweep happened to measure, too, do
not count. *Noise* is what differs when the same points are measured again on the same kind of GPU: no formula does
better.

What pipeline stages hand on (send, recv) is launched from Python and takes as long as the host does: the held-out
points of the H200 were taken on another host, which needed about twice the time.
"""

FAMILIES = """
Parameters that operations of one family share, of different shapes, with 95 % intervals. The error is that at points
of an operation by the parameters of all the others: what to expect where nothing of an operation was measured.
"""

ZERO = f"""
Each model in turn without the points of the operations that it alone has: how far its predicted steps are from the
prediction with all points, in per cent, with nothing of its own and with points for {BUDGETS_S[1]:g} and
{BUDGETS_S[2]:g} GPU-seconds, in the order in which the planner takes them. Decode is at contexts of 1,024 tokens, the
mixed step has 31 such requests beside a prompt of 481 tokens. Steps are sums of operations; those that were never
measured on this GPU (collectives of four) count in neither prediction.
"""

_CLASSES = (
    Column("kind", "class"),
    Column("operations", "operations", ",d"),
    Column("points", "held-out points", ",d"),
    Column("median", "median (%)", ".1f"),
    Column("p90", "90 % (%)", ".1f"),
    Column("worst", "worst (%)", ".0f"),
    Column("goal", "goal for the median (%)", ".0f"),
    Column("noise", "noise, median (%)", ".1f"),
    Column("noise_p90", "noise, 90 % (%)", ".1f"),
    Column("repeated", "repeated points", ",d"),
)
_FAMILIES = (
    Column("family", "family"),
    Column("members", "operations", ",d"),
    Column("median", "median (%)", ".1f"),
    Column("p90", "90 % (%)", ".1f"),
    Column("parameters", "parameters"),
)
_ZERO = (
    Column("model", "model"),
    Column("alone", "its own operations", ",d"),
    Column("measured", "of", ",d"),
    Column("points", "points of its own", ",d"),
    Column("seconds", "GPU-seconds", ".1f"),
    *(Column(name, name, "+.1f") for name in STEPS),
)

Points = Mapping[Operation, Sequence[Measurement]]


def main() -> int:
    """Write the page."""
    write_text(PAGE, "\n".join(_page()))
    return 0


def _page() -> Iterator[str]:
    yield HEAD
    platforms = [path.stem for path in sorted(DATA.glob("*.parquet"))]
    machines = {platform: measured_on(platform) for platform in platforms}
    swept = {platform: read_points(measurements(platform), machine) for platform, machine in machines.items()}
    for platform, points in swept.items():
        others = (read_points(evaluation(platform, what), machines[platform]) for what in ("heldout", "repeat"))
        rows = class_errors(points, *others)
        yield markdown(Table(f"### {platform.upper()}", _CLASSES, rows))
    yield f"## Shapes that were never measured\n{FAMILIES}"
    for platform, points in swept.items():
        yield markdown(Table(f"### Families on {platform.upper()}", _FAMILIES, family_rows(points)))
    yield f"## Models that were never measured\n{ZERO}"
    for platform, points in swept.items():
        rows = [row for found in left_out(measured_models(), points) for row in zero_shot(found)]
        yield markdown(Table(f"### {platform.upper()}", _ZERO, rows))


def read_points(path: Path, machine: Machine) -> dict[Operation, list[Measurement]]:
    """Good points of a file by operation, in its environment on this machine; none of a file that is not there."""
    found: dict[Operation, list[Measurement]] = {}
    operations: dict[str, Operation] = {}
    for record in at_home(read_parquet(path), machine) if path.exists() else ():
        signature, text = record.operation.signature, record.operation.text
        skewed = record.measurement.point.skewed
        if record.measurement.status is not Status.OK or skewed or not text.startswith("operation"):
            continue
        if signature not in operations:
            (operations[signature],) = parse_program(text).operations
        found.setdefault(operations[signature], []).append(record.measurement)
    return found


def class_errors(points: Points, held_out: Points, repeated: Points) -> list[dict[str, Any]]:
    """A row for each class, attention and collectives also by their kinds; points that are fitted are not held out."""
    errors: dict[str, list[Unseen]] = {}
    counts: dict[str, int] = {}
    noise: dict[str, list[float]] = {}
    few = [operation for operation, found in points.items() if len(found) < ENOUGH]
    families = fit_families({operation: observed(found) for operation, found in points.items()}, few)
    for operation, found in points.items():
        names = _names(operation)
        fitted = {each.point for each in found}
        unseen = [each for each in held_out.get(operation, ()) if each.point not in fitted]
        if unseen:
            try:
                formula = families.fit(operation, observed(found))
            except FitError:
                continue
            judged = unseen_errors(operation, formula, observed(unseen))
            for name in names:
                errors.setdefault(name, []).extend(judged)
                counts[name] = counts.get(name, 0) + 1
        before = {each.point: each.latency_us for each in (*found, *held_out.get(operation, ()))}
        again = [each for each in repeated.get(operation, ()) if each.point in before]
        for name in names:
            noise.setdefault(name, []).extend(abs(each.latency_us / before[each.point] - 1.0) for each in again)
    return [_class_row(name, counts[name], errors[name], noise.get(name, [])) for name in sorted(errors)]


def _names(operation: Operation) -> list[str]:
    kind = operation.kind.value
    parts = {Kind.ATTENTION: operation.attr("backend"), Kind.COLLECTIVE: operation.target}
    return [kind, f"{kind}, {parts[operation.kind]}"] if operation.kind in parts else [kind]


def _class_row(name: str, operations: int, errors: Sequence[Unseen], noise: Sequence[float]) -> dict[str, Any]:
    judged = judge(errors)
    return {
        "kind": name,
        "operations": operations,
        "points": judged.points,
        "median": 100 * judged.median,
        "p90": 100 * judged.p90,
        "worst": 100 * judged.worst,
        "goal": GOALS.get(name),
        "noise": 100 * float(np.median(noise)) if noise else None,
        "noise_p90": 100 * float(np.quantile(noise, 0.9)) if noise else None,
        "repeated": len(noise),
    }


def family_rows(points: Points) -> list[dict[str, Any]]:
    """A row for each family that is not just everything of one kind."""
    found = fit_families({operation: observed(each) for operation, each in points.items()})
    return [
        {
            "family": " ".join(key),
            "members": len(family.members),
            "median": 100 * family.median,
            "p90": 100 * family.p90,
            "parameters": "; ".join(map(str, family.parameters)),
        }
        for key, family in found.by_key.items()
        if key in found.proper
    ]


def zero_shot(found: LeftOut) -> Iterator[dict[str, Any]]:
    """A row for each budget."""
    for (count, seconds), errors in zip(found.spent, found.errors, strict=True):
        sizes = {name: 100 * errors[name] if errors else None for name in STEPS}
        facts = {"model": found.model, "alone": found.alone, "measured": found.measured}
        yield {**facts, "points": count, "seconds": seconds, **sizes}


if __name__ == "__main__":
    sys.exit(main())
