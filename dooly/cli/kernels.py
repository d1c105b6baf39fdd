"""``dooly kernels``: the kernels of recorded engine steps, each with its operation, beside predictions."""

from pathlib import Path
from typing import Annotated

import typer

from dooly.cli.options import DATABASE, AsJson, Db
from dooly.escape import show

__all__ = ["kernels"]


def kernels(
    recordings: Annotated[
        list[Path], typer.Argument(metavar="RECORDING...", help="recorded engine steps, .json", show_default=False)
    ],
    db: Db = DATABASE,
    as_json: AsJson = False,
) -> None:
    """Say where the GPU time of real steps went.

    Every kernel of a profiled step is attributed to a kind of operation, beside what the model's operations are
    predicted to take; and the sum of predictions stands beside the GPU time of steps that ran without a profiler.

    Example: dooly kernels dooly/data/evaluation/h200-steps-llama-3.1-8b.json
    """
    from dooly.cli.output import print_json, print_table
    from dooly.evaluate.replay import kernel_report
    from dooly.evaluate.steps import load_steps

    reports = [kernel_report(path.stem, load_steps(path), db) for path in recordings]
    if as_json:
        print_json([report.document() for report in reports])
        return
    for report in reports:
        for table in report.tables():
            print_table(table.title, table.columns, table.rows)
            if table.note:
                show(table.note)
