"""``dooly validate``: predicted beside measured, on the real CPU engine."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from dooly.cli.options import DATABASE, AsJson, Backend, Db, Model
from dooly.cli.serving import (
    BatchedTokens,
    Blocks,
    BlockSize,
    ModelLength,
    Rate,
    Requests,
    Sequences,
    TraceSource,
    engine_settings,
    load_trace,
)

__all__ = ["validate"]


def validate(
    model: Model,
    trace: TraceSource = "azure-conv",
    requests: Requests = 40,
    rate: Rate = None,
    repeats: Annotated[int, typer.Option(help="real runs; from two on their scatter is reported as noise")] = 1,
    max_num_seqs: Sequences = 16,
    max_num_batched_tokens: BatchedTokens = 512,
    max_model_len: ModelLength = 2048,
    block_size: BlockSize = 32,
    num_blocks: Blocks = None,
    db: Db = DATABASE,
    backend: Backend = None,
    as_json: AsJson = False,
) -> None:
    """Compare predictions with the real engine.

    Serves the trace with vLLM's engine on this CPU (random weights) and on the simulated clock; prints step times by
    class and request latencies side by side. A real run takes at least as long as the trace.

    Example: dooly validate tiny-llama --requests 40 --rate 4
    """
    from dooly.cli.knowledge import model_path, saved_model
    from dooly.cli.output import Column, print_json, print_table, progress_bar
    from dooly.simulate import compare, record_runs, simulate

    settings = engine_settings(max_num_seqs, max_num_batched_tokens, max_model_len, block_size, num_blocks)
    arrivals = load_trace(trace, requests, rate, max_model_len)
    path = model_path(model)
    steps = saved_model(model, db, backend, block_size).steps
    simulated = simulate(path, arrivals, steps.step_time, settings)
    with progress_bar("requests") as progress:
        task = progress.add_task("real engine", total=repeats * len(arrivals))
        measured = record_runs(
            path,
            arrivals,
            settings,
            repeats=repeats,
            progress=lambda done, _: progress.update(task, completed=done),
        )
    predicted = [[steps.step_time(step.batch) for step in run.steps] for run in measured]
    result = compare(measured, predicted, simulated)
    if as_json:
        print_json(result.json())
        return
    print_table(
        f"{result.model}: engine steps, predicted against measured (real runs: {result.runs})",
        (
            Column("kind", "steps"),
            Column("part", "part"),
            Column("count", "count", ",d"),
            Column("measured_us", "measured (us)", ",.0f"),
            Column("predicted_us", "predicted (us)", ",.0f"),
            Column("error_percent", "error (%)", ".1f"),
            Column("error_p90_percent", "p90 error (%)", ".1f"),
            Column("bias_percent", "bias (%)", "+.1f"),
            Column("noise_percent", "noise (%)", ".1f"),
        ),
        [asdict(step) for step in result.steps],
    )
    print_table(
        f"{result.model}: requests of {Path(result.trace).name}, simulated against measured",
        (
            Column("metric", "latency"),
            Column("measured_ms", "measured (ms)", ",.1f"),
            Column("simulated_ms", "simulated (ms)", ",.1f"),
            Column("mape_percent", "mean error (%)", ".1f"),
            Column("mean_error_percent", "of mean (%)", "+.1f"),
            Column("p50_error_percent", "of p50 (%)", "+.1f"),
            Column("p90_error_percent", "of p90 (%)", "+.1f"),
            Column("p99_error_percent", "of p99 (%)", "+.1f"),
            Column("noise_percent", "noise (%)", ".1f"),
        ),
        [asdict(request) for request in result.requests],
    )
