"""``dooly record``: the real engine serving traces, kept as a file that predictions are validated with elsewhere."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dooly.cli.expand import expanded
from dooly.cli.options import Backend, Model, TensorParallel
from dooly.cli.serving import Seed, TraceOption
from dooly.engine.options import EngineOptions
from dooly.hardware.software import gpu_present

if TYPE_CHECKING:
    from dooly.engine.local import Engine
    from dooly.engine.remote import RemoteEngine
    from dooly.simulate import Run, Trace

__all__ = ["record"]

Traces = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="TRACE[:REQUESTS][@RATE]...",
        help="as for `dooly simulate`, of which the first REQUESTS at a mean of RATE arrivals per second; e.g. "
        "azure-conv:40@4.  With --serve: -- and vLLM's own flags",
    ),
]


@expanded(asked=("gpu_memory_utilization", "memory_other"))
def record(
    context: typer.Context,
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="file to write, .json.gz")],
    traces: Traces = None,
    serve: Annotated[bool, typer.Option("--serve", help="run `vllm serve`, and loads by its own client")] = False,
    loads: Annotated[str | None, typer.Option(help="with --serve: names of loads, by comma")] = None,
    ladder: Annotated[Path | None, typer.Option(help="with --serve: JSON file of other loads")] = None,
    steps: Annotated[Path | None, typer.Option(help="also record single steps, with what ran on the GPU")] = None,
    repeats: Annotated[int, typer.Option(help="passes over each trace or load")] = 3,
    own_process: Annotated[bool, typer.Option("--own-process", help="the engine core in a process of its own")] = False,
    tp: TensorParallel = 1,
    *,
    asked: EngineOptions,
    trace_option: TraceOption = None,
    seed: Seed = 2023,
    backend: Backend = None,
) -> None:
    """Serve traces with the real engine on this machine, and keep what happened.

    With asynchronous scheduling each trace is served `repeats` times, and once more with every step finished before
    the next begins. Steps are listed for the first pass of each kind; requests for all of them. With --own-process,
    which is how `vllm serve` runs the engine, no steps are listed and all passes are alike;
    --tp needs it, since ranks are processes (all-reduces are then not fused with the norms behind them).
    Weights and prompts are random. `dooly validate --recording FILE` compares with it.

    With --serve the API server of vLLM runs with its own defaults and the flags after --, vLLM's own client sends each
    load `repeats` times, and the file keeps each request as the client saw it, the server's counts of prompt tokens and
    prefix-cache hits, and each step of the engine core.

    Example: dooly record llama-3.1-8b azure-conv:40@4 arxiv:16@1.5 -o llama.json.gz
    Example: dooly record llama-3.1-8b --serve --loads c1,c64 -o served.json.gz -- --quantization fp8
    """
    from dataclasses import replace

    import numpy as np

    from dooly.cli.output import say
    from dooly.cli.record_serve import check_options, record_loads
    from dooly.engine.local import Engine, start_engine
    from dooly.engine.remote import start_remote_engine
    from dooly.engine.settings import model_folder
    from dooly.errors import SimulationError
    from dooly.evaluate.metadata import machine_facts
    from dooly.evaluate.record import record_trace, warm_up
    from dooly.evaluate.record_steps import record_steps
    from dooly.evaluate.recording import Recording, save_recording
    from dooly.evaluate.steps import StepRecording, save_steps
    from dooly.hardware.machine import machine
    from dooly.simulate.simulator import check_lengths
    from dooly.workspace.lowering import model_path
    from dooly.workspace.models import untimed_model
    from dooly.workspace.serving import filled

    if repeats < 1:
        raise SimulationError(f"--repeats is {repeats}; expected at least 1")
    if serve:
        check_options(context)
        record_loads(model, traces or (), loads, ladder, repeats, output)
        return
    if loads is not None or ladder is not None:
        raise SimulationError("--loads and --ladder are of --serve; traces are named after the model")
    if not traces:
        raise SimulationError("no trace to serve; name one after the model, e.g. azure-conv:40@4, or give --serve")
    if tp < 1 or (tp > 1 and not own_process):
        raise SimulationError(f"--tp is {tp}; expected 1, or more with --own-process: ranks are processes of their own")
    if own_process and (backend is None or steps is not None):
        raise SimulationError("--own-process: what happens there cannot be seen; say which --backend, and no --steps")
    path, rng = model_path(model), np.random.default_rng(seed)
    on_gpu, here = gpu_present(), machine()
    settings = asked.settings(on_gpu, here.device, here.memory_bytes, model_folder(path))
    served = [_trace(source, settings.max_model_len, seed, trace_option) for source in traces]
    for trace in served:
        check_lengths(trace, settings)
    if on_gpu:
        settings = filled(asked, settings, untimed_model(model, backend, tp), on_gpu)
    name = model_folder(path).name
    with (
        start_remote_engine(path, settings, backend, tp)
        if own_process and backend is not None
        else start_engine(path, settings, backend=backend)
    ) as engine:
        facts = dict(machine_facts(engine))
        say(f"{name} with {engine.backend} started in {engine.start_s:.0f} s")
        warm_up(engine, served[0], rng)
        runs: list[Run] = []
        for trace, turn in _passes(engine, served, repeats):
            run = record_trace(engine, name, trace, settings, rng)
            facts |= _slowdown(engine, tp)
            kept = replace(run, steps=(), unlisted=(len(run.steps), sum(s.batch.count for s in run.steps)))
            runs.append(run if turn == 0 else kept)
            save_recording(Recording(name, tp, engine.backend, tuple(sorted(facts.items())), tuple(runs)), output)
            kind = "asynchronous" if engine.overlaps else "synchronous"
            say(f"{trace.name}, {kind}, pass {turn + 1}: {run.wall_s:.1f} s, {len(run.steps) or 'unknown'} steps")
        if steps is not None and isinstance(engine, Engine):  # last: launches are slower once a profiler has been there
            taken = tuple(record_steps(engine, rng, settings.max_num_seqs, settings.max_num_batched_tokens))
            facts |= _slowdown(engine, tp)
            told = tuple(sorted(facts.items()))
            save_steps(StepRecording(name, tp, engine.backend, settings, told, taken), steps)
            say(f"{len(taken)} steps in {steps}")


def _slowdown(engine: "Engine | RemoteEngine", tp: int) -> dict[str, str]:
    """A fact of the recording if a GPU is slower than it should be: its steps are then no engine's usual ones."""
    from dooly.cli.output import say
    from dooly.hardware.gpu import Gauge

    states = [Gauge(rank).read() for rank in range(tp)] if engine.device == "cuda" else []
    slow = next((state for state in states if state.slowed_by), None)
    if slow is None:
        return {}
    why = f"{slow.slowed_by}, {slow}"
    say(f"the GPU is slowed down by {why}: record again when it is well, or on another GPU")
    return {"slowed by": why}


def _passes(engine: "Engine | RemoteEngine", traces: "Sequence[Trace]", repeats: int) -> "Iterator[tuple[Trace, int]]":
    """Each trace several times; once more with every step finished first, if it was not and the engine can be told."""
    from dooly.engine.local import Engine

    yield from itertools.product(traces, range(repeats))
    if isinstance(engine, Engine) and engine.overlaps:
        engine.overlaps = False
        yield from ((trace, 0) for trace in traces)


def _trace(source: str, max_model_len: int, seed: int, options: list[str] | None) -> "Trace":
    """The trace that TRACE[:REQUESTS][@RATE] means.

    Raises:
        TraceError: a number is none, or the trace cannot be read.
    """
    from dataclasses import replace

    from dooly.errors import TraceError
    from dooly.workspace.serving import clipped, load_trace

    rest, _, rate = source.partition("@")
    name, _, count = rest.partition(":")
    try:
        requests, per_s = int(count) if count else None, float(rate) if rate else None
    except ValueError as error:
        raise TraceError(f"{source}: expected TRACE[:REQUESTS][@RATE], e.g. azure-conv:40@4") from error
    trace = clipped(load_trace(name, requests, None, seed=seed, options=options), max_model_len)
    if per_s is not None:
        timed = trace.requests[-1].arrival_s > 0.0
        trace = trace.at_rate(per_s) if timed else trace.poisson(per_s, seed=seed)
    return replace(trace, name=source)
