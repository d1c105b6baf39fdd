"""``dooly plan``: what would be measured, and what it costs."""

from typing import TYPE_CHECKING

from dooly.cli.options import DATABASE, AsJson, Backend, Db, Models, TensorParallel
from dooly.cli.planning import AllReduce, Context, Eager, RequestsPerStep, Sweep, TokensPerStep

if TYPE_CHECKING:
    from dooly.executor import Plan

__all__ = ["plan", "print_plan"]


def plan(
    models: Models,
    db: Db = DATABASE,
    tp: TensorParallel = 1,
    backend: Backend = None,
    max_tokens: TokensPerStep = 512,
    max_requests: RequestsPerStep = 16,
    max_context: Context = 2048,
    sweep: Sweep = "adaptive",
    eager: Eager = False,
    disable_custom_all_reduce: AllReduce = False,
    as_json: AsJson = False,
) -> None:
    """Say what measuring would take and save.

    Prints what `dooly profile` would measure on this machine, its cost in seconds, and what reuse of points saves.

    Example: dooly plan tiny-llama --max-context 1024
    """
    from dooly.cli.output import print_json
    from dooly.executor import Ranges
    from dooly.workspace.lowering import check_models
    from dooly.workspace.planning import Engine, plan_rows, planned
    from dooly.workspace.store import open_or_empty

    check_models(models)
    with open_or_empty(db) as database:
        limits = Ranges(max_tokens, max_requests, max_context, sweep)
        found = planned(database, models, Engine(tp, backend, eager, not disable_custom_all_reduce), limits)
    if as_json:
        print_json(
            {
                "estimate_s": found.estimate_s,
                "saved_s": found.saved_s,
                "missing_points": found.points_missing,
                "measured_points": found.points_covered,
                "host_missing": found.host_missing,
                "operations": plan_rows(found),
            }
        )
        return
    print_plan(found)


def print_plan(found: "Plan") -> None:
    """The plan as a table, most telling operations first."""
    from dooly.cli.output import print_table
    from dooly.report import Column
    from dooly.workspace.planning import plan_rows

    host = ", and what steps take besides once" if found.host_missing else ""
    print_table(
        f"to measure: {found.points_missing} points in about {found.estimate_s:,.1f} s{host}; "
        f"reused: {found.points_covered} points that took {found.saved_s:,.1f} s",
        (
            Column("operation", "operation"),
            Column("kind", "kind"),
            Column("count", "count", ",d"),
            Column("status", "status"),
            Column("missing_points", "to measure (points)", ",d"),
            Column("measured_points", "reused (points)", ",d"),
            Column("estimate_s", "cost (s)", ",.2f"),
            Column("saved_s", "saved (s)", ",.2f"),
            Column("share_percent", "share of step (%)", ".1f"),
            Column("note", "note"),
        ),
        plan_rows(found),
    )
