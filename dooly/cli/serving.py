"""Options of the commands that serve a trace: which requests, and how the engine batches them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from dooly.engine import EngineSettings
    from dooly.simulate import Trace

__all__ = [
    "BatchedTokens",
    "BlockSize",
    "Blocks",
    "ModelLength",
    "Rate",
    "Requests",
    "Sequences",
    "TraceFile",
    "engine_settings",
    "load_trace",
]

SHIPPED_TRACE = Path(__file__).resolve().parent.parent / "traces" / "azure-conv-synthetic.csv"

TraceFile = Annotated[
    Path | None,
    typer.Argument(
        help="CSV of arrival_s,prompt_tokens,output_tokens or in the Azure 2023 format; default: the shipped trace",
        show_default=False,
    ),
]
Requests = Annotated[int | None, typer.Option(help="only the first so many requests of the trace")]
Rate = Annotated[float | None, typer.Option(help="mean arrivals per second; the trace's own if not given")]
Sequences = Annotated[int, typer.Option("--max-num-seqs", help="most requests in one step")]
BatchedTokens = Annotated[int, typer.Option("--max-num-batched-tokens", help="most tokens in one step")]
ModelLength = Annotated[
    int, typer.Option("--max-model-len", help="most tokens of one request; longer ones are shortened")
]
BlockSize = Annotated[int, typer.Option(help="tokens in one KV cache block")]
Blocks = Annotated[int | None, typer.Option("--num-blocks", help="KV cache blocks; enough for all if not given")]


def load_trace(path: Path | None, requests: int | None, rate: float | None, max_model_len: int) -> "Trace":
    """The trace asked for, shortened to what the engine takes; says how many requests that changed.

    Raises:
        TraceError: the file cannot be read, or an option makes no sense.
    """
    from dooly.cli.output import say
    from dooly.simulate import read_trace

    trace = read_trace(SHIPPED_TRACE if path is None else path)
    if requests is not None:
        trace = trace.first(requests)
    if rate is not None:
        trace = trace.at_rate(rate)
    trace = trace.clip(max_model_len)
    if trace.clipped:
        say(f"{trace.clipped} of {len(trace)} requests were shortened to {max_model_len} tokens")
    return trace


def engine_settings(
    sequences: int, batched_tokens: int, model_length: int, block_size: int, blocks: int | None
) -> "EngineSettings":
    """Settings of a synchronous engine without prefix caching.

    Raises:
        SimulationError: they contradict each other.
    """
    from dooly.engine import EngineSettings

    return EngineSettings(
        max_num_seqs=sequences,
        max_num_batched_tokens=batched_tokens,
        max_model_len=model_length,
        block_size=block_size,
        num_blocks=blocks,
    )
