"""``dooly simulate``: latencies of an arrival trace, on vLLM's scheduler and a simulated clock."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dooly.cli.expand import expanded
from dooly.cli.options import DATABASE, AsJson, Backend, Db, Model, Platform, TensorParallel
from dooly.cli.serving import Arrivals, Fast, Rate, Requests, Seed, TraceOption, TraceSource
from dooly.engine.options import EngineOptions
from dooly.escape import show

if TYPE_CHECKING:
    from dooly.simulate import Summary

__all__ = ["simulate"]


@expanded()
def simulate(
    model: Model,
    trace: TraceSource = "azure-conv",
    trace_option: TraceOption = None,
    requests: Requests = None,
    rate: Rate = None,
    arrivals: Arrivals = "trace",
    seed: Seed = 2023,
    fast: Fast = None,
    *,
    engine: EngineOptions,
    db: Db = DATABASE,
    platform: Platform = None,
    backend: Backend = None,
    tp: TensorParallel = 1,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="also write every request to this file: .parquet as a table, else JSON with every step",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Serve a trace on a simulated clock.

    Runs a compact scheduler that composes the batches of vLLM's, or with --no-fast and where it does not cover the
    model vLLM's own, at the step times predicted for this machine, or with --platform for a GPU that was measured;
    reports latencies and throughput.
    The engine's settings default on a GPU to those of `vllm serve` there, on a CPU to 16 requests, 512 tokens and
    2,048 tokens a request.

    Example: dooly simulate tiny-llama --requests 200 --rate 4
    """
    from dooly.cli.output import counted, print_json, say
    from dooly.simulate import save_run, summarize, write_requests
    from dooly.workspace.serving import Served, clipped, load_trace

    load = load_trace(trace, requests, rate, arrivals, seed, trace_option)
    served = Served.of(model, engine, db, backend, tp, platform)
    load = clipped(load, served.settings.max_model_len)
    table = output is not None and output.suffix == ".parquet"
    with counted("requests", "simulating", len(load)) as progress:
        run = served.run(load, fast=fast, keep_steps=output is not None and not table, progress=progress)
    if output is not None:
        if table:
            write_requests(run, output)
        else:
            save_run(run, output)
        say(f"wrote {output}")
    summary = summarize(run)
    if as_json:
        print_json({"model": run.model, "trace": run.trace, **summary.json()})
        return
    print_summary(f"{run.model} serving {Path(run.trace).name}, simulated", summary)


def print_summary(title: str, summary: "Summary") -> None:
    """Latencies as a table, the rest as lines below it."""
    from dooly.cli.output import print_table
    from dooly.report import Column

    named = (
        ("time to first token", summary.ttft),
        ("time per output token", summary.tpot),
        ("end to end", summary.e2e),
    )
    rows: list[dict[str, Any]] = [
        {"latency": name, **{key: getattr(latency, key) for key in ("mean_ms", "p50_ms", "p90_ms", "p99_ms")}}
        for name, latency in named
        if latency is not None
    ]
    columns = (
        Column("latency", "latency"),
        Column("mean_ms", "mean (ms)", ",.1f"),
        Column("p50_ms", "p50 (ms)", ",.1f"),
        Column("p90_ms", "p90 (ms)", ",.1f"),
        Column("p99_ms", "p99 (ms)", ",.1f"),
    )
    print_table(title, columns, rows)
    show(
        f"{summary.requests:,d} requests in {summary.duration_s:,.1f} s: {summary.requests_per_s:.2f} requests/s, "
        f"{summary.output_tokens_per_s:,.1f} output tokens/s, {summary.steps:,d} steps of "
        f"{summary.mean_running:.1f} requests on average, {summary.preemptions:,d} preemptions; "
        f"{summary.wall_s:.1f} s to compute"
    )
