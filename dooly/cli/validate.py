"""``dooly validate``: predicted beside measured, on the real engine of this machine or on what was recorded of one."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dooly.cli.expand import expanded
from dooly.cli.options import DATABASE, AsJson, Backend, Db
from dooly.cli.serving import Rate, Requests, TraceOption, TraceSource
from dooly.engine.options import EngineOptions

if TYPE_CHECKING:
    from dooly.evaluate import Validation

__all__ = ["validate"]


@expanded(engine=("gpu_memory_utilization", "memory_other"))
def validate(
    model: Annotated[str | None, typer.Argument(help="bundled model, config.json or its folder")] = None,
    trace: TraceSource = "azure-conv",
    trace_option: TraceOption = None,
    recording: Annotated[
        Path | None, typer.Option(help="a file of `dooly record`, in place of MODEL and TRACE: nothing is run here")
    ] = None,
    requests: Requests = 40,
    rate: Rate = None,
    repeats: Annotated[int, typer.Option(help="real runs; from two on their scatter is reported as noise")] = 1,
    *,
    engine: EngineOptions,
    db: Db = DATABASE,
    backend: Backend = None,
    as_json: AsJson = False,
) -> None:
    """Compare predictions with the real engine.

    Serves the trace with vLLM's engine on this machine (random weights) and on the simulated clock; prints step times
    by class and request latencies side by side. A real run takes at least as long as the trace. With --recording the
    runs come from a file, and the predictions from stored measurements of its GPU.

    Example: dooly validate tiny-llama --requests 40 --rate 4
    """
    from dooly.cli.output import print_json
    from dooly.errors import SimulationError

    if (model is None) == (recording is None):
        raise SimulationError("give either a MODEL, which is run here, or --recording FILE")
    if recording is not None:
        from dooly.evaluate.recording import load_recording
        from dooly.evaluate.replay import replayed

        results = replayed(load_recording(recording), db)
    else:
        assert model is not None
        results = [_live(model, trace, trace_option, requests, rate, repeats, engine, db, backend)]
    if as_json:
        print_json([result.json() for result in results] if recording is not None else results[0].json())
        return
    for result in results:
        _print(result)


def _live(
    model: str,
    trace: str,
    trace_option: list[str] | None,
    requests: int | None,
    rate: float | None,
    repeats: int,
    asked: EngineOptions,
    db: str,
    backend: str | None,
) -> "Validation":
    from dooly.cli.output import progress_bar
    from dooly.engine.settings import model_folder
    from dooly.evaluate import compare, costs_along, record_runs
    from dooly.hardware.machine import machine
    from dooly.hardware.software import gpu_present
    from dooly.simulate import simulate
    from dooly.workspace.lowering import model_path
    from dooly.workspace.models import saved_model
    from dooly.workspace.serving import bounded, clipped, filled, load_trace

    path, on_gpu = model_path(model), gpu_present()
    here = machine()
    settings = asked.settings(on_gpu, here.device, here.memory_bytes, model_folder(path))
    loaded = load_trace(trace, requests, rate, options=trace_option)
    saved = saved_model(model, db, backend, settings.block_size)
    settings = filled(asked, bounded(asked, settings, saved), saved, on_gpu)
    arrivals = clipped(loaded, settings.max_model_len)
    steps = saved.under(settings.max_num_seqs, settings.max_num_batched_tokens).steps
    simulated = simulate(path, arrivals, steps.step_time, settings, power=steps.power)
    with progress_bar("requests") as progress:
        task = progress.add_task("real engine", total=repeats * len(arrivals))
        measured = record_runs(
            path,
            arrivals,
            settings,
            repeats=repeats,
            backend=backend,
            progress=lambda done, _: progress.update(task, completed=done),
        )
    return compare(measured, [costs_along(steps, run) for run in measured], simulated)


def _print(result: "Validation") -> None:
    from dooly.cli.output import print_table
    from dooly.report import Column

    title = f"{result.model}, {Path(result.trace).name}, {result.scheduling}"
    print_table(
        f"{title}: engine steps, predicted against measured (real runs: {result.runs})",
        (
            Column("kind", "steps"),
            Column("mode", "graphs"),
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
        f"{title}: requests, simulated against measured",
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
