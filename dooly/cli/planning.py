"""Options of the commands that compare models with the database: how large batches may become."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from dooly.database import Database
    from dooly.executor import Plan

__all__ = ["Context", "RequestsPerStep", "TokensPerStep", "plan_rows", "planned"]

TokensPerStep = Annotated[int, typer.Option("--max-tokens", help="most tokens of one step")]
RequestsPerStep = Annotated[int, typer.Option("--max-requests", help="most requests of one step")]
Context = Annotated[int, typer.Option("--max-context", help="longest context of one request, tokens")]


def planned(
    database: "Database",
    models: Sequence[str],
    tp: int,
    backend: str | None,
    ranges: tuple[int, int, int],
    platform: str | None = None,
    retry_failed: bool = False,
) -> "Plan":
    """What these models need on this machine or a stored one, against what the database holds.

    Args:
        ranges: most tokens and requests of a step, longest context.
        retry_failed: count points that failed before as missing.

    Raises:
        DoolyError: a model, a range or the database is not usable.
    """
    from dooly.cli.knowledge import lower, place_of
    from dooly.executor import Ranges, make_plan

    limits = Ranges(*ranges)
    here = place_of(database, platform)
    operations = lower(models, tp, backend, platform).operations
    return make_plan(operations, database, here, limits, retry_failed=retry_failed)


def plan_rows(plan: "Plan") -> list[dict[str, Any]]:
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


def _status(row: Any) -> str:
    if row.skip is not None:
        return "unsupported"
    if not row.missing:
        return "covered"
    return "partly" if row.covered else "uncovered"
