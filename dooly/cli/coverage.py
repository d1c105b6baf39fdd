"""``dooly coverage``: what the database holds of a model."""

from dooly.cli.options import DATABASE, AsJson, Backend, Db, Models, TensorParallel
from dooly.cli.planning import Context, RequestsPerStep, TokensPerStep

__all__ = ["coverage"]


def coverage(
    models: Models,
    db: Db = DATABASE,
    tp: TensorParallel = 1,
    backend: Backend = None,
    max_tokens: TokensPerStep = 512,
    max_requests: RequestsPerStep = 16,
    max_context: Context = 2048,
    as_json: AsJson = False,
) -> None:
    """Say what the database covers of the models.

    One row per distinct operation, as measured on this machine, with its share of the time of typical steps.

    Example: dooly coverage tiny-llama tiny-mixtral
    """
    from dooly.cli.output import Column, print_json, print_table
    from dooly.cli.planning import plan_rows, planned
    from dooly.cli.store import look_into

    with look_into(db) as database:
        rows = plan_rows(planned(database, models, tp, backend, (max_tokens, max_requests, max_context)))
    if as_json:
        print_json(rows)
        return
    covered = [row for row in rows if row["status"] == "covered"]
    share = sum(row["share_percent"] for row in covered)
    print_table(
        f"{len(covered)} of {len(rows)} operations covered, about {share:.0f} % of the time of a step",
        (
            Column("operation", "operation"),
            Column("kind", "kind"),
            Column("count", "count", ",d"),
            Column("models", "models", ",d"),
            Column("status", "status"),
            Column("measured_points", "measured (points)", ",d"),
            Column("missing_points", "missing (points)", ",d"),
            Column("share_percent", "share of step (%)", ".1f"),
            Column("note", "note"),
        ),
        sorted(rows, key=lambda row: -row["share_percent"]),
    )
