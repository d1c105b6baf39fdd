"""What a GPU that was not measured as others were takes from another GPU of the same chip.

H100 and H200 are one chip with different memory: the same kernels at the same clocks and the same power limit.  So
large products, which memory does not bound, take either the same time, up to a few percent; and what a host takes is
the same where its facts are.  Used only where predictions are made for a stored machine, and said; points stay apart,
and `dooly formulas` shows a machine's own.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from dooly.batch import HOST_PARTS
from dooly.database import Database, Environment
from dooly.database.environment import Fact
from dooly.executor import environment_for, host_environment
from dooly.executor.machine import Machine
from dooly.fit import Observation
from dooly.ir import Kind, Operation

__all__ = ["lent_host_parts", "lent_products"]

_SAME_CHIP = {("h100", "h200"): 1.03}
"""How long products of more than `_ROWS` rows take the first, in times of the second.

The median over 204 points that both were measured at, the first at 1,900 MHz and more; half of them lie between 1.02
and 1.06.
"""

_ROWS = 256
"""Products of more rows are bound by the chip; and by its power limit, unless it rests."""


def lent_products(
    database: Database, points: Mapping[Operation, Sequence[Observation]], machine: Machine
) -> tuple[dict[Operation, list[Observation]], Fact | None]:
    """Points of products that were measured without rests, those of many rows replaced by a rested GPU's.

    Returns:
        the products that this concerns, and the device that lends; nothing where there is none.
    """
    found: dict[Operation, list[Observation]] = {}
    products = [each for each in points if each.kind is Kind.GEMM]
    homes = {each: environment_for(each, machine) for each in products}
    lenders = {home: _lender(database, home) for home in set(homes.values()) if home.get("clocks") is None}
    device: Fact | None = None
    for operation in products:
        there = lenders.get(homes[operation])
        if there is None or there[0].get("clocks") != "rested":
            continue
        lender, factor = there
        theirs = [Observation.of(each) for each in database.points(operation.signature, lender)]
        lent = [replace(each, latency_us=factor * each.latency_us) for each in theirs if _many_rows(each)]
        if lent:
            device = lender.get("device")
            found[operation] = [*(each for each in points[operation] if not _many_rows(each)), *lent]
    return found, device


def lent_host_parts(database: Database, known: Iterable[str], machine: Machine) -> tuple[Environment, list[str]] | None:
    """The host time that another GPU's machine lends, whose host has the same facts: its environment, and the parts.

    Args:
        known: parts that are known here; without any, nothing of this host is, and nothing is lent.
    """
    here = set(known)
    there = _lender(database, host_environment(machine)) if here else None
    if there is None:
        return None
    parts = [part for part in HOST_PARTS if part not in here and database.points(part, there[0])]
    return (there[0], parts) if parts else None


def _many_rows(observation: Observation) -> bool:
    return dict(observation.sizes).get("T", 0) > _ROWS


def _lender(database: Database, home: Environment) -> tuple[Environment, float] | None:
    """The environment of another GPU of the same chip that differs in nothing else, and its factor."""
    for other, differences in database.near_environments(home):
        factor = _SAME_CHIP.get((str(home.get("platform")), str(other.get("platform"))))
        if factor is not None and set(differences) <= {"clocks", "device", "platform"}:
            return other, factor
    return None
