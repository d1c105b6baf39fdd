"""Measurements of others: into the database, and from there to formulas.

What a source measured of an operation is fitted as dooly's own points are; of shapes that it has not, the nearest ones
lend a family.  What it has not at all follows from a rule, and host time is that of a host that dooly measured.  Each
formula names which of these it rests on.
"""

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from itertools import groupby
from math import inf, log
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import sympy

from dooly.database import PointSource
from dooly.errors import FitError, ProfileError
from dooly.fit import ENOUGH, Formula, Observation, fit, fit_families
from dooly.fit.family import NOT_MEASURED, family_key, stored_types
from dooly.fit.formula import Held, Parameter
from dooly.fit.target import subject_of
from dooly.fit.terms import PARAMETERS, Contribution
from dooly.foreign import SOURCES
from dooly.foreign.collectives import WIDTH
from dooly.hardware.environment import environment_for, host_environment, stored_machine
from dooly.hardware.gpus import platform_of
from dooly.hardware.machine import Machine
from dooly.host import POWER_LIMIT, is_host_part
from dooly.ir import Kind, Operation
from dooly.ir.expr import evaluate
from dooly.ir.types import Attribute
from dooly.workspace.formulas import fit_stored, observed
from dooly.workspace.shipped import DATA
from dooly.workspace.transfer import lent_host_parts

if TYPE_CHECKING:
    from dooly.database import Database

__all__ = ["ERRORS", "HOST", "RULE", "add_foreign", "expected_error", "fit_foreign"]

HOST = "h200"
"""The GPU whose host's time is taken where nothing of the platform's own host was measured."""

RULE = "rule"
"""Source of formulas of what nobody measured there: a launch, and bytes at the bandwidth of the device."""

ERRORS = DATA / "foreign.json"
"""Median and 90th percentile of the absolute error (%) of recorded steps, by source and class of step."""

_LENDERS = 12
"""Operations of the nearest shapes that lend a family."""

_RULED = (Kind.MEMORY, Kind.REGION, Kind.BATCHED)
"""Work that memory bounds."""


def add_foreign(database: "Database", source: str, path: Path, system: str | None, note: Callable[[str], None]) -> int:
    """Add what a source published to the database; returns how many points are new.

    Args:
        source: one of `SOURCES`.
        path: the user's copy.
        system: only this GPU.
        note: takes a line for each environment: how many points are new, and all its facts.

    Raises:
        DatabaseError: the copy is not usable, or has no such GPU.
    """
    total = 0
    for environment, times in groupby(SOURCES[source](path, system), lambda each: each.environment):
        total += (new := database.add_times(list(times)))
        note(f"{new:,d} new points: {environment}")
    return total


def fit_foreign(
    database: PointSource,
    operations: Sequence[Operation],
    machine: Machine,
    known: Collection[str],
    note: Callable[[str], None],
) -> dict[str, Formula]:
    """Formulas of a machine that others measured; as `fit_missing`."""
    found = _host(database, machine, note)
    published = _Published(database, machine)
    missing = [each for each in operations if each.signature not in known]
    for operation in missing:
        if operation.kind in _RULED:
            continue
        try:
            formula = published.formula(operation)
        except FitError as error:
            note(f"not fitted: {error}")
            continue
        if formula is not None:
            found[operation.signature] = formula
    ruled = [each for each in missing if each.kind in _RULED]
    if ruled:
        bandwidth_gbs, lenders = published.bandwidth_gbs()
        launch_us = _launch_us(database)
        note(
            f"note: {machine.fact('source')} has nothing of {len(ruled)} small operations: each takes "
            f"{launch_us:.1f} us as on an H200, and its bytes at {bandwidth_gbs:,.0f} GB/s as {lenders} products read "
            "their weights there"
        )
        found |= {each.signature: _ruled(each, launch_us, bandwidth_gbs, lenders) for each in ruled}
    return found


def _host(database: PointSource, machine: Machine, note: Callable[[str], None]) -> dict[str, Formula]:
    """Formulas of the time of a host that dooly measured: of the same GPU if there is one."""
    host = _measured(database, machine.platform) or _measured(database, HOST)
    if host is None:
        return {}
    home, name = host_environment(host), f"host of an {host.device}, {host.fact('cores')} cores"
    parts = {each.signature: each for each in database.operations() if is_host_part(each.signature)}
    homes = {part: home for part in parts if part != POWER_LIMIT and database.points(part, home)}
    homes |= lent_host_parts(database, list(homes), host, rested=False)
    found: dict[str, Formula] = {}
    for part, place in homes.items():
        try:
            found[part] = replace(fit_stored(database, parts[part], place), source=name)
        except FitError as error:
            note(f"{part} is not fitted: {error}")
    if found:
        note(f"note: host time is that of the {name}")
    return found


def _measured(database: PointSource, platform: str) -> Machine | None:
    """The machine of a platform that dooly measured with its host; None where there is none."""
    try:
        found = stored_machine(database, platform)
    except ProfileError:
        return None
    return None if found.fact("source") or not found.host else found


def expected_error(source: str, device: str = "") -> str:
    """Say by how much steps that were recorded on GPUs that dooly has are missed; empty where nobody knows.

    Args:
        source: of formulas, a publication first; empty for dooly's own points: those that ship.
        device: that they are of.
    """
    ships = (DATA / f"{platform_of(device)}.parquet").exists()
    errors = json.loads(ERRORS.read_text(encoding="utf-8")) if ERRORS.exists() else {}
    name = source.partition(";")[0] or ("dooly" if ships else "")
    return ", ".join(f"{kind} {median:.0f} %" for kind, (median, _) in errors.get(name, {}).items())


class _Published:
    """The points of one machine that a source published."""

    def __init__(self, database: PointSource, machine: Machine) -> None:
        self._database, self._machine = database, machine
        self._stored = database.operations()
        self._parsed: dict[str, list[Operation]] = {}

    def formula(self, operation: Operation) -> Formula | None:
        """Fit an operation that the source measured, or one like it; None where it measured nothing like it.

        Raises:
            FitError: the points do not suffice.
        """
        source = self._machine.fact("source")
        if operation.kind is Kind.COLLECTIVE:
            points = self._across(operation)
            return replace(fit(operation, points), source=source) if points else None
        near = self._nearest(operation)
        own = next((points for apart, points in near.values() if apart == 0.0), ())
        if len(own) >= ENOUGH:
            return replace(fit(operation, own), source=source)
        families = fit_families({each: points for each, (_, points) in near.items()}, [operation])
        if families.of(operation) is None:
            return None
        return replace(families.fit(operation, own), source=source)

    def bandwidth_gbs(self) -> tuple[float, int]:
        """Bandwidth (GB/s) of the largest products, of few rows, and of how many products it is the median.

        Raises:
            FitError: the source has none.
        """
        found: list[float] = []
        sizes = {each: float(evaluate(each.operands[1].bytes, {})) for each in self._of("linear")}
        for product in sorted(sizes, key=lambda each: (-sizes[each], each.signature)):
            if sizes[product] < _LARGE_BYTES or len(found) == _LENDERS:
                break
            points = self._points(product)
            rates = [
                float(evaluate(product.bytes, dict(each.sizes))) / each.latency_us / 1e3
                for each in points
                if _few(each)
            ]
            found += [max(rates)] if rates else []
        if not found:
            raise FitError(f"{self._machine.fact('source')}: no large products of {self._machine.device}")
        return float(np.median(found)), len(found)

    def _of(self, target: str) -> list[Operation]:
        if target not in self._parsed:
            self._parsed[target] = [each.parsed() for each in self._stored if each.target == target]
        return self._parsed[target]

    def _points(self, operation: Operation) -> list[Observation]:
        return observed(self._database, operation.signature, environment_for(operation, self._machine))

    def _nearest(self, operation: Operation) -> dict[Operation, tuple[float, list[Observation]]]:
        """Operations of the nearest shapes that have points, with how far they are apart: nearest first.

        Just the one of the same shape where that has enough.
        The same work on the same element types, attention by the same library; by the same kernel if there are enough.
        """
        key, kept = family_key(operation), (stored_types(operation), _library(operation))
        alike = [each for each in self._of(operation.target) if (stored_types(each), _library(each)) == kept]
        by_distance = sorted(alike, key=lambda each: (_apart(operation, each), family_key(each) != key))
        found: dict[Operation, tuple[float, list[Observation]]] = {}
        for each in by_distance:
            if len(found) == _LENDERS or (apart := _apart(operation, each)) == inf:
                break
            if points := self._points(each):
                found[each] = apart, points
            if apart == 0.0 and len(points) >= ENOUGH:
                break
        return found

    def _across(self, operation: Operation) -> list[Observation]:
        """Points of a collective as of rows of its own width."""
        ranks, width = operation.attr("ranks"), float(evaluate(operation.operands[0].shape[-1], {}))
        for each in self._of(operation.target):
            if each.attr("ranks") == ranks and evaluate(each.operands[0].shape[-1], {}) == WIDTH:
                rows = [(dict(point.sizes)["T"] * WIDTH / width, point) for point in self._points(each)]
                return [replace(point, sizes=(("T", max(1, round(at))),)) for at, point in rows if at >= 0.5]
        return []


_LARGE_BYTES = 2**27
"""Weights that no cache holds."""


def _library(operation: Operation) -> Attribute:
    """Attention backend; other work is alike whichever kernels the engine has for it."""
    return operation.attr("backend") if operation.kind is Kind.ATTENTION else None


def _few(observation: Observation) -> bool:
    return dict(observation.sizes)["T"] <= 16


def _apart(one: Operation, other: Operation) -> float:
    """Sum of the log ratios of the sizes of two operations; infinite where their operands differ in rank."""
    total = 0.0
    for mine, others in zip(one.operands, other.operands):
        if len(mine.shape) != len(others.shape):
            return inf
        total += sum(_log_ratio(x, y) for x, y in zip(mine.shape, others.shape))
    return total + sum(_log_ratio(one.attr(name), other.attr(name)) for name in ("window", "top_k", "experts"))


def _log_ratio(x: Attribute, y: Attribute) -> float:
    """The absolute log ratio of two sizes; of anything else 0 if they are equal, and else that of 8."""
    if x == y:
        return 0.0
    if isinstance(x, sympy.Integer) and isinstance(y, sympy.Integer):
        return abs(log(float(x) / float(y)))
    return _UNLIKE


_UNLIKE = log(8.0)


def _launch_us(database: PointSource) -> float:
    """us of a small operation on next to nothing: the median over those that dooly measured on the `HOST` GPU.

    Raises:
        FitError: nothing of it is known.
    """
    least: list[float] = []
    if (machine := _measured(database, HOST)) is not None:
        regions = [each.parsed() for each in database.operations() if each.target == "region"]
        points = [observed(database, each.signature, environment_for(each, machine)) for each in regions]
        least = [min(each.latency_us for each in some) for some in points if some]
    if not least:
        raise FitError(f"small operations of {HOST} are not known: what ships with dooly is missing")
    return float(np.median(least))


def _ruled(operation: Operation, launch_us: float, bandwidth_gbs: float, lenders: int) -> Formula:
    """Formula of a small operation: a launch, and its bytes at a bandwidth."""
    subject = subject_of(operation)
    values = {"launch": launch_us, "bandwidth": bandwidth_gbs}
    return Formula(
        subject.signature,
        subject.name,
        subject.flops,
        subject.bytes,
        ((Contribution("launch", sympy.Integer(1)),), (Contribution("bandwidth", subject.bytes),)),
        tuple(Parameter(name, each, each, each, PARAMETERS[name].unit) for name, each in values.items()),
        residual=None,
        domain=(),
        held=Held(NOT_MEASURED, NOT_MEASURED, "{}", NOT_MEASURED, 0.0, 0, 0),
        lenders=lenders,
        source=RULE,
    )
