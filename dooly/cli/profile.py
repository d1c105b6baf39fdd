"""``dooly profile``: measure what the database lacks."""

import statistics
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from dooly.cli.options import DATABASE, AsJson, Backend, Db, Models, TensorParallel
from dooly.cli.planning import AllReduce, Context, Eager, RequestsPerStep, Sweep, TokensPerStep
from dooly.errors import ProfileError
from dooly.escape import show

if TYPE_CHECKING:
    from dooly.database import Database
    from dooly.executor import Outcome, Plan

__all__ = ["profile"]


def profile(
    models: Models,
    budget: Annotated[
        float, typer.Option(help="seconds to spend on measuring; those that other processes take do not count")
    ] = 120.0,
    db: Db = DATABASE,
    tp: TensorParallel = 1,
    backend: Backend = None,
    max_tokens: TokensPerStep = 512,
    max_requests: RequestsPerStep = 16,
    max_context: Context = 2048,
    sweep: Sweep = "adaptive",
    eager: Eager = False,
    disable_custom_all_reduce: AllReduce = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="try points again that failed before")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure what the database lacks, and fit formulas to it.

    All operations of the models on this machine, as far as the budget goes, and first what a prediction cannot do
    without; the plan and its cost are printed first. Every point is stored as it is taken: an interrupted run loses at
    most one, and the same command goes on from there. In the end `dooly predict` knows what was measured, and what it
    still lacks is said.

    Example: dooly profile tiny-llama --budget 60
    """
    from dooly.cli.output import print_json, say, tracked
    from dooly.cli.plan import print_plan
    from dooly.executor import Ranges
    from dooly.workspace.lowering import check_models
    from dooly.workspace.measuring import fit_new, lacking
    from dooly.workspace.planning import Engine, plan_rows, planned
    from dooly.workspace.store import open_database

    if budget <= 0:
        raise ProfileError(f"--budget is {budget:g} s, expected more than 0")
    check_models(models)
    with open_database(db, create=True) as database:
        engine = Engine(tp, backend, eager, not disable_custom_all_reduce)
        limits = Ranges(max_tokens, max_requests, max_context, sweep)
        plan = planned(database, models, engine, limits, retry_failed=retry_failed)
        if not as_json:
            print_plan(plan)
        if plan.estimate_s > budget:
            say(f"the budget of {budget:g} s is less than the estimate of {plan.estimate_s:.0f} s: the rest is left")
        outcome = _run(plan, database, budget, retry_failed)
        fitted = fit_new(plan, database, tracked("operations", "fitting"))
        without = lacking(plan, database)
    if as_json:
        document = {"plan": plan_rows(plan), "saved_s": plan.saved_s, "outcome": asdict(outcome)}
        print_json(document | {"formulas": len(fitted), "lacking": without})
    else:
        show(_told(outcome, plan))
        if fitted:
            error = statistics.median(formula.held.mape for formula in fitted)
            show(f"{len(fitted)} formulas fitted, held-out error {100 * error:.1f} % (median)")
        if without:
            show(f"a prediction still lacks {', '.join(without)}")
    if outcome.host_error:
        raise ProfileError(f"host time was not measured: {outcome.host_error}")


def _run(plan: "Plan", database: "Database", budget: float, retry_failed: bool) -> "Outcome":
    from dooly.cli.output import progress_bar, say
    from dooly.executor import Event, run_plan

    with progress_bar("points") as progress:
        task = progress.add_task("measuring", total=plan.points_missing)

        def show(event: Event) -> None:
            progress.update(
                task,
                completed=event.done,
                total=max(event.expected, event.done),
                description=event.operation or event.detail,
            )
            if event.what in ("host", "failed", "skipped"):
                say(f"{event.elapsed_s:7.1f} s  {event.what}: {event.operation} {event.detail}")

        return run_plan(plan, database, budget_s=budget, retry_failed=retry_failed, progress=show)


def _told(outcome: "Outcome", plan: "Plan") -> str:
    waited = f" ({outcome.waited_s:.1f} s of them others had the processor)" if outcome.waited_s >= 1.0 else ""
    parts = [f"measured {outcome.taken + outcome.host_points} points in {outcome.elapsed_s:.1f} s{waited}"]
    parts += [
        f"{count} points {what}"
        for count, what in (
            (outcome.failed, "failed"),
            (outcome.skipped, "cannot be measured here"),
            (outcome.elsewhere, "were taken by another process"),
        )
        if count
    ]
    parts.append(f"reuse saved {plan.saved_s:.1f} s")
    if outcome.left:
        parts.append(f"{len(outcome.left)} operations need a larger budget; run the same command again")
    return "; ".join(parts)
