"""Measuring on this machine, formulas of measured points, and parts of a prediction that are still lacking."""

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import polars as pl

from dooly.database import Database, Environment
from dooly.errors import FitError, ProfileError
from dooly.executor import Event, Outcome, Plan, Ranges, run_plan
from dooly.fit import Formula
from dooly.fit.store import from_json, to_json
from dooly.hardware.environment import host_environment
from dooly.host import host_parts
from dooly.ir import Kind
from dooly.predict import needed_parts
from dooly.workspace.defaults import DATABASE
from dooly.workspace.formulas import fit_stored, observed
from dooly.workspace.planning import Engine, planned
from dooly.workspace.store import open_database

__all__ = ["Profile", "fit_measured", "fit_new", "lacking", "profile"]

_log = logging.getLogger(__name__)

Place = tuple[str, Environment]
"""Signature of an operation, or a part of host time, and where it was measured."""

Track = Callable[[Sequence[Place]], Iterable[Place]]


def fit_measured(
    database: Database, measured: Sequence[Place], track: Track = iter
) -> list[tuple[Formula, Environment]]:
    """Fit operations, and parts of host time, given by signature and environment, and store the formulas.

    What cannot be fitted is said and left out.

    Args:
        track: called with what is fitted; a caller may note how far the work is.
    """
    operations = {operation.signature: operation for operation in database.operations()}
    found: list[tuple[Formula, Environment]] = []
    for signature, environment in track(measured):
        try:
            formula = fit_stored(database, operations[signature], environment)
        except FitError as error:
            _log.info(f"not fitted: {error}")
            continue
        database.store_formula(signature, environment, to_json(formula))
        found.append((formula, environment))
    return found


def fit_new(plan: Plan, database: Database, track: Track = iter) -> list[Formula]:
    """Formulas of what the plan names and the database has points of, if any was taken since the last fit."""
    home = host_environment(plan.machine)
    places = [(row.operation.signature, row.environment) for row in plan.rows] + [(part, home) for part in host_parts()]
    measured = [place for place in places if _is_newer(database, *place)]
    return [formula for formula, _ in fit_measured(database, measured, track)]


def _is_newer(database: Database, signature: str, environment: Environment) -> bool:
    """Whether there are points that its formula was not fitted to."""
    fitted = 0
    if (stored := database.formula(signature, environment)) is not None:
        with suppress(FitError):  # of an older form
            fitted = from_json(stored).held.points
    return len({each.point for each in observed(database, signature, environment)}) > fitted


def lacking(plan: Plan, database: Database) -> list[str]:
    """Return what a prediction needs and has no formula yet, in words."""
    home = host_environment(plan.machine)
    host = any(
        database.formula(part, home) is None for part in needed_parts(on_gpu=plan.machine.torch_device == "cuda")
    )
    without = [
        row.operation
        for row in plan.rows
        if row.operation.count and database.formula(row.operation.signature, row.environment) is None
    ]
    names = [each.name for each in without if each.kind is not Kind.COLLECTIVE or each.attr("ranks") != 1]
    return (["host time"] if host else []) + names


@dataclass(frozen=True)
class Profile:
    """Models that were measured on this machine.

    Attributes:
        plan: points that were missing, and what they were expected to take.
        outcome: points that were taken, and what they took.
        formulas: those that were fitted to new points.
        lacking: what a prediction still needs, in words; empty if nothing.
    """

    plan: Plan
    outcome: Outcome
    formulas: tuple[Formula, ...]
    lacking: tuple[str, ...]

    def frame(self) -> pl.DataFrame:
        """A row for each formula that was fitted: name, signature, points, held_out_error (a fraction)."""
        columns = {"name": pl.String, "signature": pl.String, "points": pl.Int64, "held_out_error": pl.Float64}
        rows = [(each.name, each.signature, each.held.points, each.held.mape) for each in self.formulas]
        return pl.DataFrame(rows, schema=columns, orient="row")


def profile(
    *models: str,
    budget_s: float = 120.0,
    engine: Engine | None = None,
    ranges: Ranges | None = None,
    retry_failed: bool = False,
    db: str = DATABASE,
    progress: Callable[[Event], None] = lambda _: None,
) -> Profile:
    """Measure what the database lacks of models on this machine, and fit formulas to it; needs vLLM.

    Args:
        models: bundled names, ``config.json`` files or their folders, ``.ir`` files.
        budget_s: seconds to spend; those that other processes take do not count.
        engine: how it is started; None for one rank and the engine's own choices.
        ranges: sizes of steps that are measured; None for those of a small machine.
        retry_failed: measure points again that failed before.
        db: latency database, a file, which is made if it is missing, or a PostgreSQL URL.
        progress: called after each point.

    Raises:
        DoolyError: a model, a range or the database is not usable.
    """
    if budget_s <= 0:
        raise ProfileError(f"budget_s is {budget_s:g}, expected more than 0")
    with open_database(db, create=True) as database:
        plan = planned(database, models, engine or Engine(), ranges or Ranges(), retry_failed=retry_failed)
        outcome = run_plan(plan, database, budget_s=budget_s, retry_failed=retry_failed, progress=progress)
        return Profile(plan, outcome, tuple(fit_new(plan, database)), tuple(lacking(plan, database)))
