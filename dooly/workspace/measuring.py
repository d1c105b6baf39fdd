"""Formulas of measured points, and parts of a prediction that are still lacking."""

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from dooly.database import Database, Environment
from dooly.errors import FitError
from dooly.executor import Plan
from dooly.fit import Formula
from dooly.fit.store import from_json, to_json
from dooly.hardware.environment import host_environment
from dooly.host import host_parts
from dooly.ir import Kind
from dooly.predict import needed_parts
from dooly.workspace.formulas import fit_stored, observed

__all__ = ["fit_measured", "fit_new", "lacking"]

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
