"""``dooly explore``: configurations under latency targets, and the frontier of throughput, latency and cost."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dooly.cli.expand import expanded
from dooly.cli.options import AsJson
from dooly.cli.serving import Requests, Seed, TraceOption
from dooly.engine.options import EngineOptions
from dooly.errors import DoolyError, SimulationError
from dooly.escape import show

if TYPE_CHECKING:
    from dooly.predict import SavedModel
    from dooly.simulate import Candidate, Outcome, Trace

__all__ = ["explore"]

DEFAULT_TRACE = "azure-conv"
LONGEST = 8192
"""Most tokens of one request that are tried unless more are asked for."""


@expanded(engine=("max_num_seqs", "max_num_batched_tokens", "max_model_len"))
def explore(
    steps: Annotated[
        list[Path],
        typer.Argument(
            metavar="STEPS...",
            help="step times from `dooly export steps`: one file for each device, backend and tensor-parallel size",
            show_default=False,
        ),
    ],
    trace: Annotated[str, typer.Option(help="synthetic trace or file, as for `dooly simulate`")] = DEFAULT_TRACE,
    trace_option: TraceOption = None,
    requests: Requests = 300,
    rates: Annotated[str, typer.Option(help="mean arrivals per second, several separated by commas")] = "1,2,4,8",
    arrivals: Annotated[
        Literal["trace", "poisson", "fixed"], typer.Option(help="as the trace says, at random, or at equal gaps")
    ] = "poisson",
    seed: Seed = 2023,
    max_num_seqs: Annotated[
        str | None,
        typer.Option(help="most requests in one step, several separated by commas; the engine's own if not given"),
    ] = None,
    max_num_batched_tokens: Annotated[
        str | None,
        typer.Option(help="most tokens in one step, several separated by commas; the engine's own if not given"),
    ] = None,
    max_model_len: Annotated[
        int | None,
        typer.Option(help="most tokens of one request; longer ones are cut; if not given the model's, up to 8,192"),
    ] = None,
    *,
    engine: EngineOptions,
    ttft: Annotated[float | None, typer.Option(help="target for the time to the first token, ms")] = None,
    tpot: Annotated[float | None, typer.Option(help="target for the time per output token, ms")] = None,
    percentile: Annotated[float, typer.Option(help="percentile of the requests that both targets are for")] = 90.0,
    price: Annotated[
        list[str] | None,
        typer.Option(help="DEVICE=PRICE of one device for an hour; a part of its name will do; may be repeated"),
    ] = None,
    prices: Annotated[Path | None, typer.Option(help="JSON file of such prices by device")] = None,
    every: Annotated[bool, typer.Option("--all", help="print every configuration, not just the best")] = False,
    plot: Annotated[Path | None, typer.Option(help="also draw latency against throughput into this SVG file")] = None,
    as_json: AsJson = False,
) -> None:
    """Find the configurations that meet latency targets.

    Serves a trace with every combination of step times, rates and limits on a simulated clock (fast mode), and prints
    those that keep the targets and that no other beats in throughput per device, latency and cost.

    Example: dooly explore h100.json h200-tp2.json --rates 2,4,8 --ttft 500 --tpot 40 --price "H100=2"
    """
    from dooly.cli.output import print_json, progress_bar, say
    from dooly.files import write_text
    from dooly.predict import SavedModel
    from dooly.simulate import Targets, evaluate, frontier, frontier_chart
    from dooly.workspace.foreign import expected_error
    from dooly.workspace.limits import check_context, context_of
    from dooly.workspace.serving import clipped, load_trace

    targets = Targets(ttft, tpot, percentile)
    by_name = read_prices(price or [], prices)
    grid = (
        numbers("--rates", rates),
        [None] if max_num_seqs is None else whole("--max-num-seqs", max_num_seqs),
        [None] if max_num_batched_tokens is None else whole("--max-num-batched-tokens", max_num_batched_tokens),
    )
    models = [SavedModel.load(path) for path in steps]
    longest = min(LONGEST, *map(context_of, models)) if max_model_len is None else max_model_len
    for model in models:
        model.check_whole("dooly explore")
        check_context(model, longest)
    served = clipped(load_trace(trace, requests, None, options=trace_option), longest)
    by_device: dict[str, float] = {}
    for name, amount in by_name.items():
        if not (meant := [model.device for model in models if name.lower() in model.device.lower()]):
            say(f"note: a price for {name!r}, but none of the step times is of such a device")
        by_device |= dict.fromkeys(meant, amount)
    asked = replace(engine, max_model_len=longest)
    candidates = [candidate for model in models for candidate in combinations(model, grid, asked)]

    def arrive(requests_of: "Trace", rate: float) -> "Trace":
        if arrivals == "trace":
            return requests_of.at_rate(rate)
        return requests_of.fixed(rate) if arrivals == "fixed" else requests_of.poisson(rate, seed=seed)

    with progress_bar("configurations") as progress:
        task = progress.add_task("exploring", total=len(candidates))
        outcomes = evaluate(
            candidates, served, arrive, targets, by_device, lambda done, _: progress.update(task, completed=done)
        )
    best = frontier(outcomes)
    if plot is not None:
        write_text(plot, frontier_chart(f"{models[0].name} serving {Path(served.name).name}", outcomes, best))
        say(f"wrote {plot}")
    if as_json:
        chosen = {id(outcome) for outcome in best}
        rows = [
            {
                **outcome.json(),
                "error_to_expect": expected_error(outcome.source, outcome.device),
                "frontier": id(outcome) in chosen,
            }
            for outcome in outcomes
        ]
        print_json({"trace": served.name, "requests": len(served), "percentile": percentile, "outcomes": rows})
        return
    print_frontier(outcomes, outcomes if every else best, percentile)


def combinations(
    model: "SavedModel", grid: tuple[Sequence[float], Sequence[int | None], Sequence[int | None]], asked: EngineOptions
) -> list["Candidate"]:
    """Every rate with every limit, on one model and device.

    Raises:
        SimulationError: limits that no engine takes together, or no memory for a KV cache.
    """
    from dooly.simulate import Candidate
    from dooly.workspace.serving import filled

    rates, *limits = grid
    on_gpu = model.settings.get("platform", "") != "cpu"
    settings = [
        replace(asked, max_num_seqs=sequences, max_num_batched_tokens=tokens).settings(
            on_gpu, model.device, model.memory_bytes
        )
        for sequences, tokens in product(*limits)
    ]
    return [Candidate(model, filled(asked, each, model, on_gpu), rate) for rate, each in product(rates, settings)]


def numbers(option: str, text: str) -> list[float]:
    """Positive numbers separated by commas.

    Raises:
        SimulationError: something else.
    """
    found: list[float] = []
    for part in text.split(","):
        try:
            found.append(float(part))
        except ValueError:
            found.append(math.nan)
        if not 0 < found[-1] < math.inf:
            raise SimulationError(f"{option}: found {part.strip()!r}; expected positive numbers such as 1,2.5,4")
    return found


def whole(option: str, text: str) -> list[int]:
    """Positive whole numbers separated by commas.

    Raises:
        SimulationError: something else.
    """
    found = numbers(option, text)
    if any(value != int(value) for value in found):
        raise SimulationError(f"{option}: {text} are not whole numbers")
    return [int(value) for value in found]


def read_prices(options: Sequence[str], path: Path | None) -> dict[str, float]:
    """Price of one device for an hour, by its name or a part of it; options come after the file.

    Raises:
        DoolyError: the file cannot be read, or a price is no number of at least 0.
    """
    from dooly.files import read_text

    pairs: list[tuple[str, object]] = []
    if path is not None:
        try:
            content = json.loads(read_text(path))
            pairs += content.items()
        except OSError as error:
            raise DoolyError(f"{path}: cannot be read: {error.strerror}") from error
        except (ValueError, AttributeError, RecursionError) as error:
            raise DoolyError(f'{path}: expected a JSON object such as {{"NVIDIA H100": 2.5}}') from error
    pairs += [(device, value) for device, _, value in (option.rpartition("=") for option in options)]
    found: dict[str, float] = {}
    for device, value in pairs:
        try:
            found[device] = float(str(value))
        except ValueError:
            found[device] = math.nan
        if not device or not 0 <= found[device] < math.inf:
            raise DoolyError(f"price {value!r} of {device!r}; expected DEVICE=PRICE with a number of 0 or more")
    return found


def _least(outcomes: Sequence["Outcome"], percentile: float) -> str:
    """The least latencies of all configurations, each with the configuration that has it."""

    def told(name: str, ms: float, at: "Outcome") -> str:
        return f"least {name} p{percentile:g} {ms:,.1f} ms ({at.device}, TP {at.tp}, {at.requests_per_s:g} requests/s)"

    first = min(outcomes, key=lambda each: each.ttft_ms)
    parts = [told("TTFT", first.ttft_ms, first)]
    later = [(each.tpot_ms, each) for each in outcomes if each.tpot_ms is not None]
    if later:
        ms, at = min(later, key=lambda each: each[0])
        parts.append(told("TPOT", ms, at))
    return ", ".join(parts)


def print_frontier(outcomes: Sequence["Outcome"], best: Sequence["Outcome"], percentile: float) -> None:
    """The frontier, or all that is asked for, as a table; a line where nothing meets the targets."""
    from dooly.cli.output import print_table
    from dooly.report import Column
    from dooly.workspace.foreign import expected_error

    meeting = sum(outcome.meets for outcome in outcomes)
    if not best:
        show(f"none of {len(outcomes)} configurations meets the targets; {_least(outcomes, percentile)}")
        return
    chosen = f"{len(best)} best of" if len(best) < len(outcomes) else "all, of which"
    foreign: tuple[Column, ...] = ()
    if any(outcome.source for outcome in best):
        foreign = Column("source", "measured by"), Column("error", "median step error to expect")
    print_table(
        f"{chosen} {meeting} configurations that meet the targets, of {len(outcomes)} tried",
        (
            Column("device", "device"),
            Column("tp", "TP", "d"),
            Column("backend", "backend"),
            Column("requests_per_s", "offered (1/s)", ",.2f"),
            Column("max_num_seqs", "requests", ",d"),
            Column("max_num_batched_tokens", "tokens", ",d"),
            Column("num_blocks", "blocks", ",d"),
            Column("ttft_ms", f"TTFT p{percentile:g} (ms)", ",.1f"),
            Column("tpot_ms", f"TPOT p{percentile:g} (ms)", ",.1f"),
            Column("tokens_per_s_per_device", "tokens/s/device", ",.1f"),
            Column("cost", "cost per 1M tokens", ",.3f"),
            *foreign,
        ),
        [
            {
                **outcome.json(),
                "source": outcome.source.partition(";")[0] or "dooly",
                "error": expected_error(outcome.source, outcome.device),
            }
            for outcome in best
        ],
    )
