"""``dooly bench``: `vllm bench serve` without a GPU, its options and its result."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from dooly.cli.expand import expanded
from dooly.cli.options import DATABASE, AsJson, Backend, Db, Model, Platform, TensorParallel
from dooly.cli.serving import Fast
from dooly.engine.options import EngineOptions
from dooly.errors import SimulationError, TraceError
from dooly.escape import show

if TYPE_CHECKING:
    from dooly.bench import RampUp

__all__ = ["bench"]


@expanded()
def bench(
    model: Model,
    dataset_name: Annotated[
        Literal["random", "sharegpt", "custom", "timed_trace"], typer.Option(help="where requests come from")
    ] = "random",
    dataset_path: Annotated[Path | None, typer.Option(help="file of a dataset that is not random")] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="folder with tokenizer.json, which counts the tokens of a dataset of texts")
    ] = None,
    random_input_len: Annotated[int, typer.Option(help="tokens of a random prompt, on average")] = 1024,
    random_output_len: Annotated[int, typer.Option(help="tokens of its output, on average")] = 128,
    random_range_ratio: Annotated[
        str, typer.Option(help='half the width of the range of lengths, 0 to 1, or {"input": 0.3, "output": 0.5}')
    ] = "0.0",
    random_prefix_len: Annotated[int, typer.Option(help="tokens of a beginning that all random prompts share")] = 0,
    sharegpt_output_len: Annotated[int | None, typer.Option(help="output tokens, in place of the answers'")] = None,
    custom_output_len: Annotated[int, typer.Option(help="output tokens; -1 for what the file says")] = 256,
    timed_trace_chunk_hash_size: Annotated[int, typer.Option(help="tokens that one of hash_ids stands for")] = 16,
    timed_trace_sec_multiplier: Annotated[float, typer.Option(help="seconds in one unit of the timestamps")] = 1.0,
    timed_trace_label_timestamp: Annotated[str, typer.Option(help="name of the timestamps")] = "timestamp",
    timed_trace_label_input_length: Annotated[str, typer.Option(help="name of the input lengths")] = "input_length",
    timed_trace_label_output_length: Annotated[str, typer.Option(help="name of the output lengths")] = "output_length",
    num_prompts: Annotated[int, typer.Option(help="requests to send")] = 1000,
    max_concurrency: Annotated[
        int | None, typer.Option(help="most requests under way; the next is sent when one ends")
    ] = None,
    request_rate: Annotated[float, typer.Option(help="requests/s; inf for all at once")] = math.inf,
    burstiness: Annotated[float, typer.Option(help="1 for Poisson arrivals; less is more bursty, inf even")] = 1.0,
    ramp_up_strategy: Annotated[
        Literal["linear", "exponential"] | None, typer.Option(help="how the rate rises, in place of --request-rate")
    ] = None,
    ramp_up_start_rps: Annotated[float | None, typer.Option(help="requests/s at the first request")] = None,
    ramp_up_end_rps: Annotated[float | None, typer.Option(help="requests/s at the last")] = None,
    percentile_metrics: Annotated[
        str, typer.Option(help="of ttft, tpot, itl, e2el, client_queue_time, e2el_including_client_queue")
    ] = "ttft,tpot,itl",
    metric_percentiles: Annotated[str, typer.Option(help="percentiles, several separated by commas")] = "99",
    goodput: Annotated[
        list[str] | None, typer.Option(help="NAME:MS that a good request keeps: ttft, tpot or e2el; may be repeated")
    ] = None,
    seed: Annotated[int, typer.Option(help="of lengths and arrivals")] = 0,
    label: Annotated[str | None, typer.Option(help="name of the load in the saved result")] = None,
    save_result: Annotated[bool, typer.Option("--save-result", help="write the result as JSON")] = False,
    save_detailed: Annotated[bool, typer.Option("--save-detailed", help="with every request and token")] = False,
    result_filename: Annotated[Path | None, typer.Option(help="file for --save-result")] = None,
    fast: Fast = None,
    *,
    engine: EngineOptions,
    db: Db = DATABASE,
    platform: Platform = None,
    backend: Backend = None,
    tp: TensorParallel = 1,
    as_json: AsJson = False,
) -> None:
    """Benchmark a server that is not there: `vllm bench serve` on a simulated clock.

    Takes the options of `vllm bench serve` and of `vllm serve`, with the engine's own values where nothing is said, and
    prints the result that `vllm bench serve` prints; --save-result writes its JSON. The engine starts with an empty
    cache. --gpu names a GPU that was measured; without it, it is this machine.

    Example: dooly bench llama-3.1-8b --gpu H200 --max-concurrency 16 --num-prompts 64
    """
    from dooly.bench import Arrivals, Asked, Dataset, RandomPrompts, measure
    from dooly.cli.output import counted, print_json, say
    from dooly.files import write_text
    from dooly.workspace.foreign import expected_error
    from dooly.workspace.serving import Served

    dataset = Dataset(
        dataset_name,
        dataset_path,
        tokenizer,
        RandomPrompts(random_input_len, random_output_len, *_ratios(random_range_ratio), random_prefix_len),
        sharegpt_output_len,
        custom_output_len,
        timed_trace_chunk_hash_size,
        timed_trace_sec_multiplier,
        (timed_trace_label_timestamp, timed_trace_label_input_length, timed_trace_label_output_length),
    )
    ramp_up = _ramp_up(ramp_up_strategy, ramp_up_start_rps, ramp_up_end_rps)
    arrivals = Arrivals(request_rate, burstiness, ramp_up, seed)
    asked = Asked(
        tuple(name.strip() for name in percentile_metrics.split(",")),
        tuple(_number("--metric-percentiles", each) for each in metric_percentiles.split(",")),
        dict(_goal(each) for each in goodput or ()),
        save_detailed,
    )
    load = dataset.load(num_prompts, arrivals)
    served = Served.of(model, engine, db, backend, tp, platform)
    for line in served.told():
        say(line)
    with counted("requests", "simulating", len(load)) as progress:
        run = served.run(load, fast=fast, concurrency=max_concurrency, progress=progress)
    result = measure(run, load, arrivals, max_concurrency)
    content = result.json(asked, label, None if tokenizer is None else str(tokenizer))
    if served.saved.sources:
        content["not_measured_by_dooly"] = list(served.saved.sources)
    if save_result:
        path = result_filename or Path(_file_name(content))
        write_text(path, json.dumps(content))
        say(f"wrote {path}")
    if as_json:
        print_json(content)
        return
    show(result.block(asked, served.saved.tensor_parallel))
    if served.saved.sources:
        found = expected_error(served.saved.sources[0])
        off = f"; median error of such steps: {found}" if found else ""
        show(f"not measured by dooly: {', '.join(served.saved.sources)}{off}")


def _ramp_up(
    strategy: Literal["linear", "exponential"] | None, start: float | None, end: float | None
) -> "RampUp | None":
    """A rate that rises, if one is asked for.

    Raises:
        TraceError: a rate is missing.
    """
    from dooly.bench import RampUp

    if strategy is None:
        return None
    if start is None or end is None:
        raise TraceError("--ramp-up-strategy needs --ramp-up-start-rps and --ramp-up-end-rps")
    return RampUp(strategy, start, end)


def _number(option: str, text: str) -> float:
    """A number.

    Raises:
        SimulationError: something else.
    """
    try:
        return float(text)
    except ValueError:
        raise SimulationError(f"{option}: found {text.strip()!r}; expected a number") from None


def _ratios(text: str) -> tuple[float, float]:
    """Range ratios of inputs and outputs: one number for both, or a JSON object with each.

    Raises:
        SimulationError: something else.
    """
    try:
        value = json.loads(text)
        if isinstance(value, dict):
            both = cast(dict[str, float], value)
            return float(both["input"]), float(both["output"])
        return float(value), float(value)
    except (ValueError, TypeError, KeyError):
        wanted = '0 to 1, or {"input": 0.3, "output": 0.5}'
        raise SimulationError(f"--random-range-ratio: found {text!r}; expected {wanted}") from None


def _goal(text: str) -> tuple[str, float]:
    """Name and ms of ``NAME:MS``.

    Raises:
        SimulationError: the number is none.
    """
    name, _, limit = text.partition(":")
    return name, _number(f"--goodput {name}", limit)


def _file_name(content: dict[str, Any]) -> str:
    """The file's name where none is given: load, model and date."""
    rate = content["request_rate"]
    if "ramp_up_strategy" in content:
        rate = f"{content['ramp_up_strategy']}-{content['ramp_up_start_rps']:g}-{content['ramp_up_end_rps']:g}"
    concurrency = content["max_concurrency"]
    limit = "" if concurrency is None else f"-concurrency{concurrency}"
    return f"{content['label'] or content['backend']}-{rate}qps{limit}-{content['model_id']}-{content['date']}.json"
