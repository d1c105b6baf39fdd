"""``dooly predict``: the time of one engine step."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dooly.cli.options import DATABASE, AsJson, Backend, CapturedModel, Db, Platform, TensorParallel
from dooly.cli.serving import BatchedTokens, Sequences

if TYPE_CHECKING:
    from dooly.predict.breakdown import Row

__all__ = ["predict"]


def predict(
    model: CapturedModel,
    batch: Annotated[
        str, typer.Option(help="requests of the step as NEW:CACHED tokens, xN for N alike, separated by commas")
    ],
    db: Db = DATABASE,
    platform: Platform = None,
    backend: Backend = None,
    tp: TensorParallel = 1,
    max_num_seqs: Sequences = None,
    max_num_batched_tokens: BatchedTokens = None,
    as_json: AsJson = False,
) -> None:
    """Predict the time of one engine step.

    On this machine, from the stored formulas, with a breakdown by operation; or with --platform on a GPU that was
    measured before, where host time may be unknown: then it is device time only, and says so. There the engine's limits
    decide which CUDA graphs it has, and to how many tokens it pads.

    Example: dooly predict tiny-llama --batch 128:0,1:512x7
    """
    from dooly.batch import Batch
    from dooly.cli.output import print_json, print_table
    from dooly.engine.defaults import gpu_limits
    from dooly.report import Column
    from dooly.workspace.foreign import expected_error
    from dooly.workspace.limits import check_step
    from dooly.workspace.models import saved_model

    step = Batch.parse(batch)
    saved = saved_model(model, db, backend, tp=tp, platform=platform)
    limits = gpu_limits(saved.device, saved.memory_bytes, max_num_seqs, max_num_batched_tokens)
    check_step(saved, step, *limits)
    saved = saved.under(*limits)
    breakdown = saved.steps.breakdown(step)
    cost = breakdown.cost
    if as_json:
        rows = [asdict(row) for row in breakdown.rows]
        facts = {"device": saved.device, "sources": saved.sources, "device_only": saved.device_only}
        print_json({"batch": batch, **facts, "cost": cost._asdict(), "rows": rows})
        return
    rows = [{**asdict(row), "share_percent": 100 * row.share, "note": _note(row)} for row in breakdown.rows]
    columns = (
        Column("name", "operation"),
        Column("kind", "kind"),
        Column("count", "count", ",d"),
        Column("each_us", "each (us)", ",.1f"),
        Column("total_us", "total (us)", ",.1f"),
        Column("share_percent", "share (%)", ".1f"),
        Column("note", "note"),
    )
    parts = (
        f"(host before {cost.host_before_us:,.0f}, device {cost.device_us:,.0f}, host after {cost.host_after_us:,.0f})"
    )
    title = (
        f"{Path(model).name}, {step.kind} step of {step.tokens} tokens in {len(step.requests)} requests: "
        f"{cost.total_us:,.0f} us {'of device time only; host time is not measured' if saved.device_only else parts}"
    )
    if saved.sources:
        title += f"; not measured by dooly: {', '.join(saved.sources)}"
        title += f"; median error of such steps: {found}" if (found := expected_error(saved.sources[0])) else ""
    print_table(title, columns, rows)


def _note(row: "Row") -> str:
    """Say what a row rests on that is not its own measured points."""
    return ", ".join(filter(None, [row.source, "extrapolated" if row.extrapolated else ""]))
