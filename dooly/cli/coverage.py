"""``dooly coverage``: what the database holds of models, and what they share with one another."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dooly.cli.options import DATABASE, AsJson, Backend, Db, Models, Platform, TensorParallel
from dooly.errors import DoolyError

if TYPE_CHECKING:
    from dooly.evaluate.shared_work import SharedWork

__all__ = ["coverage"]

_WHAT = {"operations": "distinct operations", "time": "predicted time", "measuring": "measuring cost"}


def coverage(
    models: Models,
    by: Annotated[
        Literal["operations", "time", "measuring"], typer.Option(help="what the sharing matrix is a share of")
    ] = "time",
    plot: Annotated[Path | None, typer.Option(help="draw the sharing matrix as an .svg file", metavar="FILE")] = None,
    db: Db = DATABASE,
    tp: TensorParallel = 1,
    platform: Platform = None,
    backend: Backend = None,
    max_tokens: Annotated[int | None, typer.Option(help="most tokens of one step")] = None,
    max_requests: Annotated[int | None, typer.Option(help="most requests of one step")] = None,
    max_context: Annotated[int | None, typer.Option(help="longest context of one request, tokens")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what the database covers of the models, and what they share.

    Of one model: a row for each distinct operation with its share of the time of typical steps. Of several: how much
    of each model's operations, predicted time and measuring cost the others have too, what it adds, and the matrix of
    pairs. Asked for are the points that `dooly profile` would take here (steps of 512 tokens and 16 requests, contexts
    of 2,048), or with --platform those that GPUs are swept for (8,192, 256 and 16,384).

    Example: dooly coverage llama-3.1-8b qwen3-8b mixtral-8x7b --by time --plot sharing.svg
    """
    from dooly.cli.output import print_json
    from dooly.evaluate.shared_work import shared_work
    from dooly.executor import Ranges
    from dooly.workspace.lowering import check_models
    from dooly.workspace.planning import Engine, plan_rows, planned, usual_ranges
    from dooly.workspace.store import look_into

    if plot is not None and plot.suffix != ".svg":
        raise DoolyError(f"--plot {plot}: expected a file name that ends in .svg")
    check_models(models)
    with look_into(db) as database:
        usual = usual_ranges(platform)
        limits = Ranges(
            usual.max_tokens if max_tokens is None else max_tokens,
            usual.max_requests if max_requests is None else max_requests,
            usual.max_context if max_context is None else max_context,
        )
        plan = planned(database, models, Engine(tp, backend), limits, platform)
        shared = shared_work(plan, database)
    if plot is not None:
        _draw(plot, shared, by)
    rows = plan_rows(plan)
    if as_json:
        print_json({**shared.document(), "operations": rows})
    elif len(shared.operations.models) == 1:
        _print_operations(rows)
    else:
        _print_models(shared, rows)
        _print_matrix(shared, by)


def _draw(path: Path, shared: "SharedWork", by: str) -> None:
    from dooly.cli.output import say
    from dooly.evaluate.sharing import heat_map
    from dooly.files import write_text

    sharing = shared.by(by)
    write_text(path, heat_map(f"Share of {_WHAT[by]}{shared.source(by)}", sharing.models, sharing.matrix()))
    say(f"drew {path}")


def _print_operations(rows: list[dict[str, Any]]) -> None:
    from dooly.cli.output import print_table
    from dooly.report import Column

    covered = [row for row in rows if row["status"] == "covered"]
    share = sum(row["share_percent"] for row in covered)
    print_table(
        f"{len(covered)} of {len(rows)} operations covered, about {share:.0f} % of the time of a step",
        (
            Column("operation", "operation"),
            Column("kind", "kind"),
            Column("count", "count", ",d"),
            Column("status", "status"),
            Column("measured_points", "measured (points)", ",d"),
            Column("missing_points", "missing (points)", ",d"),
            Column("share_percent", "share of step (%)", ".1f"),
            Column("note", "note"),
        ),
        sorted(rows, key=lambda row: -row["share_percent"]),
    )


def _print_models(shared: "SharedWork", rows: list[dict[str, Any]]) -> None:
    from dooly.cli.output import print_table
    from dooly.report import Column

    covered = sum(row["status"] == "covered" for row in rows)
    apart, together = shared.measuring.apart(), shared.measuring.together()
    saved = f" (-{100 * (1 - together / apart):.0f} %)" if apart else ""
    print_table(
        f"{len(rows)} distinct operations instead of {shared.operations.apart():.0f}, {covered} in the database; "
        f"measuring takes {together:,.0f} s instead of {apart:,.0f} s{saved}",
        (
            Column("model", "model"),
            Column("operations", "operations", ",d"),
            Column("operations_shared_percent", "others have (%)", ".1f"),
            Column("time_shared_percent", f"of its time{shared.source('time')} (%)", ".1f"),
            Column("measuring_shared_percent", "of its measuring (%)", ".1f"),
            Column("adds_operations", "adds (operations)", ",d"),
            Column("adds_measuring_s", "adds (s of measuring)", ",.1f"),
        ),
        shared.document()["models"],
    )


def _print_matrix(shared: "SharedWork", by: str) -> None:
    from dooly.cli.output import print_table
    from dooly.report import Column

    sharing = shared.by(by)
    numbers = [str(index) for index in range(1, len(sharing.models) + 1)]
    print_table(
        f"percent of the row's {_WHAT[by]}{shared.source(by)} that the column's model has too",
        (Column("number", "", "d"), Column("model", "model"), *(Column(number, number, ".0f") for number in numbers)),
        [
            {"number": index, "model": model, **{n: 100 * share for n, share in zip(numbers, shares, strict=True)}}
            for index, (model, shares) in enumerate(zip(sharing.models, sharing.matrix(), strict=True), 1)
        ],
    )
