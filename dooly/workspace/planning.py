"""Plans of measuring: points of models that the database lacks, on this machine or a stored one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from dooly.database import PointSource
from dooly.executor import Plan, Ranges, make_plan
from dooly.executor.plan.plan import Row
from dooly.hardware.machine import machine
from dooly.ir import Operation
from dooly.workspace.defaults import DATABASE
from dooly.workspace.lowering import lower
from dooly.workspace.models import machine_of
from dooly.workspace.store import look_into

__all__ = ["Coverage", "Engine", "coverage", "covered", "plan_rows", "planned", "usual_ranges"]

_STORED = Ranges(8192, 256, 16384)
"""Tokens and requests of a step, and tokens of a context, up to which stored GPUs were measured."""


def usual_ranges(platform: str | None) -> Ranges:
    """Return the ranges that are asked for where nothing is said: those of stored GPUs, or of this machine."""
    return Ranges() if platform is None else _STORED


@dataclass(frozen=True)
class Coverage:
    """Measured and missing points of models on a device.

    Attributes:
        plan: points that are known, those that are not, and the seconds that measuring them takes.
    """

    plan: Plan

    def frame(self) -> pl.DataFrame:
        """A row for each distinct operation: operation, signature, kind, count, models, status, measured_points,
        missing_points, failed_points, share_percent (of typical steps), estimate_s, saved_s, note."""
        return pl.DataFrame(plan_rows(self.plan))


def coverage(
    *models: str,
    gpu: str | None = None,
    tensor_parallel_size: int = 1,
    attention_backend: str | None = None,
    ranges: Ranges | None = None,
    db: str = DATABASE,
) -> Coverage:
    """Compare what models need with what was measured.

    Args:
        models: bundled names, ``config.json`` files or their folders, ``.ir`` files.
        gpu: a GPU that was measured, e.g. ``h200``; None for this machine.
        tensor_parallel_size: ranks.
        attention_backend: None for the engine's choice.
        ranges: sizes of steps that are asked for; None for those that `dooly profile` takes there.
        db: latency database, a file or a PostgreSQL URL.  What ships is known beside it.

    Raises:
        DoolyError: a model, the GPU, a range or the database is not usable.
    """
    platform = None if gpu is None else gpu.lower()
    engine = Engine(tensor_parallel_size, attention_backend)
    with look_into(db) as database:
        return Coverage(planned(database, models, engine, ranges or usual_ranges(platform), platform))


@dataclass(frozen=True)
class Engine:
    """How the engine is started.

    Attributes:
        tp: tensor-parallel size of models that are captured.
        backend: attention backend of those; None for the engine's choice.
        eager: nothing compiled, kernels launched one by one.
        custom_all_reduce: whether it may use its own all-reduce.
    """

    tp: int = 1
    backend: str | None = None
    eager: bool = False
    custom_all_reduce: bool = True


def planned(
    database: PointSource,
    models: Sequence[str],
    engine: Engine,
    limits: Ranges,
    platform: str | None = None,
    retry_failed: bool = False,
) -> Plan:
    """Plan what these models need on this machine or a stored one, against what the database holds.

    Args:
        platform: a stored one; this machine's if not given, and its is the code that is captured.
        retry_failed: count points that failed before as missing.

    Raises:
        DoolyError: a model, a range or the database is not usable.
    """
    if platform is None:
        here = machine(mode="eager" if engine.eager else None, custom_all_reduce=engine.custom_all_reduce)
    else:
        here = machine_of(database, platform)
    program = lower(models, engine.tp, engine.backend, platform, eager=engine.eager, here=here.platform)
    return make_plan(program.operations, database, here, limits, retry_failed=retry_failed)


def covered(location: str, operations: Sequence[Operation], platform: str) -> frozenset[str]:
    """Signatures of the operations of which a database, with what ships, has all points that a sweep asks for.

    Args:
        location: the database, a file or a URL.
        platform: that the operations were captured for: the CPU of this machine, or a GPU that is stored.

    Raises:
        DoolyError: the database is not usable, or nothing of the GPU is stored.
    """
    on_cpu = platform == "cpu"
    with look_into(location) as database:
        here = machine() if on_cpu else machine_of(database, platform)
        plan = make_plan(operations, database, here, usual_ranges(None if on_cpu else platform))
    return frozenset(row.operation.signature for row in plan.rows if row.skip is None and not row.missing)


def plan_rows(plan: Plan) -> list[dict[str, Any]]:
    """One plain row per operation, in the order of measuring."""
    return [
        {
            "operation": row.operation.name,
            "signature": row.operation.signature,
            "kind": row.operation.kind.value,
            "count": row.operation.count,
            "models": len({use.model for use in row.operation.uses}),
            "status": _status(row),
            "measured_points": row.covered,
            "missing_points": len(row.missing),
            "failed_points": row.failed,
            "share_percent": 100 * row.share,
            "estimate_s": row.estimate_s,
            "saved_s": row.saved_s,
            "note": row.skip or "",
        }
        for row in plan.rows
    ]


def _status(row: Row) -> str:
    if row.skip is not None:
        return "unsupported"
    if not row.missing:
        return "covered"
    return "partly" if row.covered else "uncovered"
