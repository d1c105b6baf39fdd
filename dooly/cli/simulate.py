"""``dooly simulate``: latencies of an arrival trace, on vLLM's scheduler and a simulated clock."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dooly.cli.options import DATABASE, AsJson, Backend, Db, Model, Platform, TensorParallel
from dooly.cli.serving import (
    Arrivals,
    Asynchronous,
    BatchedTokens,
    Blocks,
    BlockSize,
    MemoryOther,
    ModelLength,
    PrefixCaching,
    Rate,
    Requests,
    Seed,
    Sequences,
    TraceOption,
    TraceSource,
    engine_settings,
    fill_memory,
    load_trace,
)
from dooly.engine.settings import LIMITS
from dooly.escape import show

if TYPE_CHECKING:
    from dooly.simulate import Summary

__all__ = ["simulate"]


def simulate(
    model: Model,
    trace: TraceSource = "azure-conv",
    trace_option: TraceOption = None,
    requests: Requests = None,
    rate: Rate = None,
    arrivals: Arrivals = "trace",
    seed: Seed = 2023,
    fast: Annotated[
        bool, typer.Option("--fast", help="compact scheduler instead of the engine's: same batches")
    ] = False,
    max_num_seqs: Sequences | None = None,
    max_num_batched_tokens: BatchedTokens | None = None,
    max_model_len: ModelLength | None = None,
    block_size: BlockSize | None = None,
    num_blocks: Blocks = None,
    memory_utilization: Annotated[
        float | None,
        typer.Option(help="derive the KV cache blocks: they fill this share of the device's memory beside the weights"),
    ] = None,
    memory_other: MemoryOther = 1.3,
    prefix_caching: PrefixCaching = False,
    asynchronous: Asynchronous = False,
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

    Runs vLLM's own scheduler, or with --fast one of our own that composes the same batches, at the step times
    predicted for this machine, or with --platform for a GPU that was measured; reports latencies and throughput.
    The engine's limits default to 16 requests, 512 tokens and 2,048 tokens a request on a CPU, to 256, 8,192 and 16,384
    on a GPU.

    Example: dooly simulate tiny-llama --requests 200 --rate 4
    """
    from dooly.cli.output import print_json, progress_bar, say
    from dooly.errors import SimulationError
    from dooly.hardware.machine import BLOCK_SIZE
    from dooly.hardware.software import gpu_present
    from dooly.simulate import check_compact, save_run, simulate_fast, summarize, write_requests
    from dooly.simulate import simulate as serve
    from dooly.workspace.lowering import model_path
    from dooly.workspace.models import saved_model

    if platform is not None and not fast:
        raise SimulationError(f"--platform {platform} needs --fast: the engine's own scheduler runs on this machine's")
    device = "cpu" if platform is None and not gpu_present() else "cuda"
    given = (max_num_seqs, max_num_batched_tokens, max_model_len)
    sequences, batched, length = (
        usual if own is None else own for own, usual in zip(given, LIMITS[device], strict=True)
    )
    served = load_trace(trace, requests, rate, length, arrivals, seed, trace_option)
    block_size = block_size or BLOCK_SIZE[device]
    settings = engine_settings(sequences, batched, length, block_size, num_blocks, prefix_caching, asynchronous)
    path = model_path(model)
    saved = saved_model(model, db, backend, block_size, tp, platform).under(sequences, batched)
    if num_blocks is None and memory_utilization is not None:
        shares = {"utilization": memory_utilization, "other_bytes": memory_other * 2**30}
        settings = fill_memory(settings, saved, **shares)
    if fast:
        check_compact(saved.operations, settings)
    table, steps = output is not None and output.suffix == ".parquet", saved.steps
    with progress_bar("requests") as progress:
        task = progress.add_task("simulating", total=len(served))

        def report(done: int, _: int) -> None:
            progress.update(task, completed=done)

        if fast:
            keep = output is not None and not table
            name = (path.parent if path.name == "config.json" else path).name
            run = simulate_fast(
                name, served, steps.step_time, settings, power=steps.power, progress=report, keep_steps=keep
            )
        else:
            run = serve(path, served, steps.step_time, settings, power=steps.power, progress=report)
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
    from dooly.cli.output import Column, print_table

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
