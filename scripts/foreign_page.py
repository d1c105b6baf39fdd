"""Write docs/results/foreign.md, and the error to expect that commands print, from what a user has imported:

python -m scripts.foreign_page --db dooly.sqlite
"""

import argparse
import json
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dooly.errors import DoolyError
from dooly.evaluate.foreign import class_rows, step_rows
from dooly.evaluate.recording import load_recording
from dooly.files import write_text
from dooly.foreign.aiconfigurator import DISTRIBUTION, RELEASE
from dooly.report import Column, Table, markdown
from dooly.workspace.foreign import ERRORS
from dooly.workspace.shipped import DATA, measured_models
from dooly.workspace.store import look_into

PAGE = Path(__file__).resolve().parent.parent / "docs" / "results" / "foreign.md"
PLATFORMS = ("h100", "h200")
SOURCE = f"{DISTRIBUTION} {RELEASE}"

_HEAD = f"""# What others' measurements are worth

Written by `python -m scripts.foreign_page` from a database into which
[{SOURCE} was imported](../how-to/predict-a-gpu-that-others-measured.md). H100 and H200 are the GPUs that both its
authors and dooly measured. Errors are absolute, predicted over measured less one; the bias is the median with its sign,
positive where the prediction is too long.
"""

_OPERATIONS = """## Operations

Formulas from the source, at every point that dooly measured of the same operation on the same kind of GPU. Regions are
the small operations that the source has not: what they show is the error of the rule.
"""

_STEPS = """## Steps

Formulas from the source, and dooly's own, beside steps of vLLM 0.26.0 that were recorded while it served traces.
Compared is the time from calling the model to the end of its operations. Models with latent attention, and attention by
FlashInfer and Triton, are left out: the source has neither for these GPUs.
"""


def main(argv: list[str] | None = None) -> int:
    """Write both files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--db", required=True, help="database with the imported points")
    location = parser.parse_args(argv).db
    recorded = list(_recorded(location))
    errors = {name: dict(expected(recorded, column)) for name, column in ((SOURCE, "error"), ("dooly", "own_error"))}
    write_text(ERRORS, json.dumps(errors, indent=1) + "\n")
    write_text(PAGE, "\n".join([_HEAD, *_expected_table(errors), *_operations(location), _STEPS, _steps(recorded)]))
    return 0


def _recorded(location: str) -> Iterable[dict[str, Any]]:
    """A row for each class of step of each recording."""
    for path in sorted((DATA / "recorded").glob("*.json.gz")):
        try:
            pairs = list(step_rows(load_recording(path), location, DISTRIBUTION))
        except DoolyError as error:
            sys.stderr.write(f"{path.name} is left out: {error}\n")
            continue
        for own, foreign in pairs:
            if foreign.part == "device":
                own_errors = {f"own_{name}": value for name, value in asdict(own).items()}
                yield {"recording": path.name.removesuffix(".json.gz"), **asdict(foreign), **own_errors}


def expected(rows: Sequence[Mapping[str, Any]], error: str) -> Iterable[tuple[str, list[float]]]:
    """For each class of step the medians over recordings of the median error (%) and of its 90th percentile.

    Args:
        error: which one, as the names of the columns begin.
    """
    for kind in ("decode", "mixed", "prefill"):
        if some := [row for row in rows if row["kind"] == kind]:
            names = f"{error}_percent", f"{error}_p90_percent"
            yield kind, [round(statistics.median(row[name] for row in some), 1) for name in names]


def _expected_table(errors: Mapping[str, Mapping[str, Sequence[float]]]) -> list[str]:
    rows = [
        {"source": source, "kind": kind, "median": median, "p90": p90}
        for source, each in errors.items()
        for kind, (median, p90) in each.items()
    ]
    columns = (
        Column("source", "operation times of"),
        Column("kind", "step"),
        Column("median", "median (%)", ".1f"),
        Column("p90", "90 % of steps (%)", ".1f"),
    )
    note = "Medians over the recordings below. Commands print them with every prediction from this source."
    return ["## The error to expect\n", markdown(Table("", columns, rows, note))]


def _operations(location: str) -> list[str]:
    columns = (
        Column("kind", "class"),
        Column("operations", "operations", ",d"),
        Column("points", "points", ",d"),
        Column("median", "median (%)", ".1f"),
        Column("p90", "90 % (%)", ".1f"),
        Column("bias", "bias (%)", "+.1f"),
    )
    parts = [_OPERATIONS]
    with look_into(location) as database:
        for platform in PLATFORMS:
            found = class_rows(database, measured_models().operations, platform, DISTRIBUTION)
            percent = [
                {**asdict(row), **{name: 100 * getattr(row, name) for name in ("median", "p90", "bias")}}
                for row in found
            ]
            parts.append(markdown(Table(f"### {platform.upper()}", columns, percent)))
    return parts


def _steps(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = (
        Column("recording", "recording"),
        Column("kind", "step"),
        Column("mode", "graphs"),
        Column("count", "steps", ",d"),
        Column("measured_us", "recorded (us)", ",.0f"),
        Column("own_error_percent", "dooly's own (%)", ".1f"),
        Column("own_bias_percent", "bias (%)", "+.1f"),
        Column("error_percent", "from the source (%)", ".1f"),
        Column("error_p90_percent", "90 % (%)", ".1f"),
        Column("bias_percent", "bias (%)", "+.1f"),
    )
    return markdown(Table("", columns, rows))


if __name__ == "__main__":
    raise SystemExit(main())
