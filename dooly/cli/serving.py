"""Options of the commands that serve a trace: which requests, and how the engine batches them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from dooly.engine.settings import EngineSettings
    from dooly.predict import SavedModel
    from dooly.simulate import Trace

__all__ = [
    "Arrivals",
    "Asynchronous",
    "BatchedTokens",
    "BlockSize",
    "Blocks",
    "MemoryOther",
    "ModelLength",
    "PrefixCaching",
    "Rate",
    "Requests",
    "Seed",
    "Sequences",
    "TraceOption",
    "TraceSource",
    "engine_settings",
    "fill_memory",
    "load_trace",
]


TraceSource = Annotated[
    str,
    typer.Argument(
        help="azure-conv, azure-code, mooncake or arxiv (synthetic, fitted to the public traces), or a file: CSV of "
        "arrival_s,prompt_tokens,output_tokens, or a published trace (docs/traces.md)",
    ),
]
TraceOption = Annotated[
    list[str] | None,
    typer.Option(
        "--trace-option",
        metavar="KEY=VALUE",
        help="what a trace file does not say: arrival=, prompt= or output=COLUMN, unit=s, ms, us or ns, block=tokens "
        "of one of hash_ids, zero=skip or one (requests without output), tokenizer=FOLDER; may be repeated",
    ),
]
Requests = Annotated[int | None, typer.Option(help="only the first so many requests; a synthetic trace has 1,000")]
Rate = Annotated[float | None, typer.Option(help="mean arrivals per second; the trace's own if not given")]
Arrivals = Annotated[
    Literal["trace", "poisson", "fixed"],
    typer.Option(help="when requests arrive: as the trace says, at random, or at equal gaps (both need --rate)"),
]
Seed = Annotated[int, typer.Option(help="of synthetic traces and of Poisson arrivals")]
Sequences = Annotated[int, typer.Option("--max-num-seqs", help="most requests in one step")]
BatchedTokens = Annotated[int, typer.Option("--max-num-batched-tokens", help="most tokens in one step")]
ModelLength = Annotated[
    int, typer.Option("--max-model-len", help="most tokens of one request; longer ones are shortened")
]
BlockSize = Annotated[int, typer.Option(help="tokens in one KV cache block")]
Blocks = Annotated[int | None, typer.Option("--num-blocks", help="KV cache blocks; enough for all if not given")]
MemoryOther = Annotated[float, typer.Option(help="GiB of that share that neither weights nor KV cache take")]
PrefixCaching = Annotated[bool, typer.Option("--prefix-caching", help="reuse KV blocks of prompts that begin alike")]
Asynchronous = Annotated[bool, typer.Option("--async", help="schedule the next step while the current one runs")]


def load_trace(
    source: str,
    requests: int | None,
    rate: float | None,
    max_model_len: int,
    arrivals: Literal["trace", "poisson", "fixed"] = "trace",
    seed: int = 2023,
    options: Sequence[str] | None = None,
) -> "Trace":
    """The trace asked for, shortened to what the engine takes; says how its file was read and what was shortened.

    Args:
        options: ``KEY=VALUE`` texts of `TraceOptions`.

    Raises:
        TraceError: the file cannot be read, or an option makes no sense.
    """
    from dooly.cli.output import say
    from dooly.errors import TraceError
    from dooly.simulate import SHIPPED, TraceOptions, read_trace, shipped_trace

    if requests is not None and requests < 1:
        raise TraceError(f"--requests is {requests}; expected at least 1")
    if source in SHIPPED and not Path(source).exists():
        if options:
            raise TraceError(f"--trace-option {options[0]}: {source} is synthetic; trace options are of files")
        trace = shipped_trace(source, requests or 1000, seed=seed)
    else:
        trace = read_trace(source, TraceOptions.parse(options or ()))
        for note in trace.notes:
            say(note)
        trace = trace if requests is None else trace.first(requests)
    if arrivals != "trace":
        if rate is None:
            raise TraceError(f"--arrivals {arrivals} needs --rate, the mean arrivals per second")
        trace = trace.fixed(rate) if arrivals == "fixed" else trace.poisson(rate, seed=seed)
    elif rate is not None:
        trace = trace.at_rate(rate)
    trace = trace.clip(max_model_len)
    if trace.clipped:
        say(f"{trace.clipped} of {len(trace)} requests were shortened to {max_model_len} tokens")
    return trace


def engine_settings(
    sequences: int,
    batched_tokens: int,
    model_length: int,
    block_size: int,
    blocks: int | None,
    prefix_caching: bool = False,
    asynchronous: bool = False,
) -> "EngineSettings":
    """Settings of the engine.

    Raises:
        SimulationError: they contradict each other.
    """
    from dooly.engine.settings import EngineSettings

    return EngineSettings(
        max_num_seqs=sequences,
        max_num_batched_tokens=batched_tokens,
        max_model_len=model_length,
        block_size=block_size,
        num_blocks=blocks,
        prefix_caching=prefix_caching,
        async_scheduling=asynchronous,
    )


def fill_memory(settings: "EngineSettings", model: "SavedModel", **shares: float) -> "EngineSettings":
    """Settings with the KV cache blocks that fit into the device's memory beside the weights; says how many.

    Args:
        shares: of the memory, as `kv_blocks` takes them.

    Raises:
        SimulationError: not even one request fits, or the model's caches cannot be sized.
    """
    from dataclasses import replace

    from dooly.cli.output import say
    from dooly.simulate import kv_blocks

    blocks = kv_blocks(model, settings.block_size, **shares)
    say(f"{blocks:,d} KV cache blocks of {settings.block_size} tokens fit into the memory")
    # More than all requests can use only matter to a prefix cache.
    return replace(settings, num_blocks=blocks if settings.prefix_caching else min(blocks, settings.blocks))
