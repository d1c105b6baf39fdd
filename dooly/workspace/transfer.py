"""Transfer of points to a machine that was not measured as others were, from another with a GPU of the same chip.

H100 and H200 are one chip under one power limit, with different memory.  Large products, which memory does not bound,
take either nearly the same time; and what a host takes is much the same where its facts are, but for how many cores it
has.  Used only where predictions are made for a stored machine, and said; points stay apart, and `dooly formulas` shows
a machine's own.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from dooly.database import Environment, PointSource
from dooly.fit import Observation
from dooly.hardware.environment import environment_for, host_environment
from dooly.hardware.gpus import PLATFORMS, PlatformSpec
from dooly.hardware.machine import Machine
from dooly.host import POWER_LIMIT, host_parts
from dooly.ir import Operation

__all__ = ["lent_host_parts", "lent_products"]

_ROWS = 512
"""Rows of products up to which memory has its part: 1.08 between H100 and H200 from 257 to 400 rows (8 points)."""


def lent_products(
    database: PointSource, operations: Iterable[Operation], machine: Machine
) -> dict[Operation, list[Observation]]:
    """Points of products in 16 bits that were measured without rests, those of many rows replaced by a rested GPU's.

    Only where the other GPU was measured at no fewer sizes, and up to as many rows.
    """
    found: dict[Operation, list[Observation]] = {}
    for operation in operations:
        home = environment_for(operation, machine)
        if operation.target != "linear" or home.get("clocks") is not None:
            continue
        own = _observations(database, operation, home)
        large = [each for each in own if _rows(each) > _ROWS]
        offers = [
            [replace(each, latency_us=factor * each.latency_us) for each in there if _rows(each) > _ROWS]
            for other, factor in _lenders(database, home)
            if other.get("clocks") == "rested" and (there := _observations(database, operation, other))
        ]
        lent = max(offers, key=len, default=[])
        if large and len(lent) >= len(large) and max(map(_rows, lent)) >= max(map(_rows, large)):
            found[operation] = [*(each for each in own if _rows(each) <= _ROWS), *lent]
    return found


def lent_host_parts(
    database: PointSource, known: Sequence[str], machine: Machine, *, rested: bool
) -> dict[str, Environment]:
    """The parts of host time that other machines lend, each with its environment: the nearest that has it.

    Args:
        known: parts that are known here; without any, this host was not measured, and nothing is lent.
        rested: whether the products here are those of a rested GPU; a power limit acts on such only.
    """
    if not set(known) - {POWER_LIMIT}:
        return {}
    wanted = [part for part in host_parts() if part not in known and (rested or part != POWER_LIMIT)]
    lent: dict[str, Environment] = {}
    for other, _ in _lenders(database, host_environment(machine)):
        lent |= {part: other for part in wanted if part not in lent and database.points(part, other)}
    return lent


def _observations(database: PointSource, operation: Operation, environment: Environment) -> list[Observation]:
    return [Observation.of(each) for each in database.points(operation.signature, environment)]


def _rows(observation: Observation) -> int:
    return dict(observation.sizes).get("T", 0)


def _lenders(database: PointSource, home: Environment) -> Iterator[tuple[Environment, float]]:
    """Environments of GPUs of the same chip that differ in nothing else that counts, nearest first, with factors."""
    for other, differences in database.near_environments(home):
        here, there = str(home.get("platform")), str(other.get("platform"))
        own, others = (PLATFORMS.get(name, PlatformSpec()) for name in (here, there))
        alike = here == there or (own.chip and own.chip == others.chip)
        if alike and set(differences) <= {"clocks", "cores", "device", "platform"}:
            yield other, own.product_time / others.product_time
