"""Formulas of one machine: those that are stored, and those fitted on the spot from stored points."""

import logging
from collections.abc import Callable, Collection, Sequence
from itertools import groupby

from dooly.database import Environment, PointSource, StoredOperation
from dooly.errors import FitError
from dooly.fit import Families, Formula, Observation
from dooly.fit.store import from_json
from dooly.hardware.environment import environment_for, host_environment
from dooly.hardware.machine import Machine
from dooly.host import host_parts, is_host_part
from dooly.ir import Kind, Operation
from dooly.workspace.transfer import lent_host_parts, lent_products

__all__ = ["fit_missing", "fit_stored", "formulas_here", "observed"]

_CUT_US = 1.0

_log = logging.getLogger(__name__)


def fit_stored(database: PointSource, stored: StoredOperation, environment: Environment) -> Formula:
    """Fit the points of one operation, or of one part of the host's work, in one environment.

    Raises:
        FitError: the points do not suffice, or the formula is useless.
    """
    from dooly.fit import fit, fit_host

    observations = observed(database, stored.signature, environment)
    if is_host_part(stored.signature):
        return _useful(fit_host(stored.signature, observations))
    return _useful(fit(stored.parsed(), observations))


def _useful(formula: Formula) -> Formula:
    """The formula itself.

    Raises:
        FitError: no prediction may rest on it.
    """
    if formula.held.useless:
        raise FitError(f"{formula.name}: {formula.held.useless}")
    return formula


def observed(database: PointSource, signature: str, environment: Environment) -> list[Observation]:
    """Points of an operation as a fit takes them: of mixtures, those without a given fullest expert.

    Differences that an earlier release derived were cut at 1 us: where the cut is the latency, the point says nothing.
    """
    points = [point for point in database.points(signature, environment) if not point.point.skewed]
    return [Observation.of(point) for point in points if not (point.derived and point.latency_us <= _CUT_US)]


def fit_missing(
    database: PointSource,
    operations: Sequence[Operation],
    machine: Machine,
    known: Collection[str],
    note: Callable[[str], None] = _log.info,
) -> dict[str, Formula]:
    """Formulas of operations and host work that have none stored, or that another GPU lends; they are not stored.

    From their points or, of operations with few points or none, from their family; collectives only from points, since
    a family has no number of ranks.

    Args:
        known: signatures of formulas that are stored.
        note: takes what is to be said of where they come from, in words.
    """
    from dooly.fit import ENOUGH
    from dooly.fit.family import stored_types

    lent = lent_products(database, operations, machine)
    if lent:
        note(f"note: {len(lent)} products of many rows are those of a rested GPU of the same chip")
    found = _fit_host(database, machine, known, note, rested=bool(lent))
    missing = [each for each in operations if each.signature not in known or each in lent]
    points = {
        each: lent.get(each) or observed(database, each.signature, environment_for(each, machine)) for each in missing
    }
    families = _families(database, [each for each in missing if len(points[each]) < ENOUGH], machine)
    for operation in missing:
        known_alike = families.of(operation) or families.lender(operation)
        if not points[operation] and (operation.kind is Kind.COLLECTIVE or known_alike is None):
            continue
        try:
            found[operation.signature] = _useful(families.fit(operation, points[operation]))
        except FitError as error:
            note(f"not fitted: {error}")
    stored = {each.signature: stored_types(each) for each in missing if families.of(each) is None}
    for formula in found.values():
        if formula.lenders:
            note(f"note: {_borrowed(formula, stored.get(formula.signature, ()))}")
    return found


def _borrowed(formula: Formula, stored: Sequence[str]) -> str:
    """Say what a formula rests on that has too few points of its own.

    Args:
        stored: element types of weights or caches, where nothing measured has them.
    """
    has = f"{formula.name} has {formula.held.points or 'no'} points here"
    if stored:
        return (
            f"{has}, and nothing like it has weights or caches of {', '.join(stored)}: its bytes and FLOPs at what "
            f"{formula.lenders} operations on plain ones reach, which may be wrong by a factor of two"
        )
    return (
        f"{has}: formula of {formula.lenders} operations like it, right to {formula.held.mape:.0%} (median), "
        f"{formula.held.worst_error:.0%} (90 %)"
    )


def _fit_host(
    database: PointSource, machine: Machine, known: Collection[str], note: Callable[[str], None], *, rested: bool
) -> dict[str, Formula]:
    """Formulas of what is known of the host's time; parts that were not measured here may be another machine's."""
    found: dict[str, Formula] = {}
    home = host_environment(machine)
    stored = {each.signature: each for each in database.operations() if is_host_part(each.signature)}
    homes = {part: home for part in stored if part not in known and database.points(part, home)}
    here = [part for part in stored if part in known or part in homes]
    lent = lent_host_parts(database, here, machine, rested=rested)
    homes |= lent
    for there, parts in groupby(lent, lent.__getitem__):
        host = f"a host of {there.get('cores')} such cores"
        note(f"note: {', '.join(parts)}: not measured here, those of an {there.get('device')} on {host}")
    for part, place in homes.items():
        try:
            found[part] = fit_stored(database, stored[part], place)
        except FitError as error:
            note(f"{part} is not fitted: {error}")
    return found


def _families(database: PointSource, wanted: Sequence[Operation], machine: Machine) -> Families:
    """Families of the wanted operations, from all that this machine measured of their targets."""
    from dooly.fit import fit_families
    from dooly.fit.family import plain_target

    targets = {target for each in wanted for target in (each.target, plain_target(each))}
    measured: dict[Operation, list[Observation]] = {}
    for stored in database.operations():
        if stored.target in targets:
            operation = stored.parsed()
            points = observed(database, stored.signature, environment_for(operation, machine))
            if points:
                measured[operation] = points
    return fit_families(measured, wanted)


def formulas_here(database: PointSource, operations: Sequence[Operation], machine: Machine) -> dict[str, Formula]:
    """Formulas by signature, the host's among them, that were fitted in this machine's environments.

    Where there is none here but one in another environment, that is said, never used; neither is a useless one.
    """
    homes = {operation.signature: environment_for(operation, machine) for operation in operations}
    homes |= dict.fromkeys(host_parts(), host_environment(machine))
    found: dict[str, Formula] = {}
    elsewhere: dict[str, str] = {}
    for signature, home in homes.items():
        stored = database.formula(signature, home)
        if stored is not None:
            formula = from_json(stored)
            if formula.held.useless:
                _log.info(f"note: {formula.name}: {formula.held.useless}")
            else:
                found[signature] = formula
        elif (near := _near(database, signature, home)) is not None:
            elsewhere[signature] = near
    for difference in sorted(set(elsewhere.values())):
        count = list(elsewhere.values()).count(difference)
        _log.info(f"note: {count} operations have a formula in another environment ({difference}); it is not used")
    return found


def _near(database: PointSource, signature: str, home: Environment) -> str | None:
    """How the nearest other environment that has a formula of this operation differs."""
    for other, differences in database.near_environments(home):
        if database.formula(signature, other) is not None:
            return ", ".join(f"{name} {there!s} there, {here!s} here" for name, (here, there) in differences.items())
    return None
