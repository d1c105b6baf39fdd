"""Options of the commands that serve a trace: which requests, and how the engine batches them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
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
    "EngineOptions",
    "MemoryOther",
    "ModelLength",
    "PrefixCaching",
    "Rate",
    "Requests",
    "Seed",
    "Sequences",
    "TraceOption",
    "TraceSource",
    "Utilization",
    "clipped",
    "load_trace",
]


TraceSource = Annotated[
    str,
    typer.Argument(
        help="azure-conv, azure-code, mooncake or arxiv (synthetic, fitted to the public traces), or a file: CSV of "
        "arrival_s,prompt_tokens,output_tokens, or a published trace (docs/reference/traces.md)",
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
_OWN = "the engine's own if not given"
Sequences = Annotated[int | None, typer.Option("--max-num-seqs", help=f"most requests in one step; {_OWN}")]
BatchedTokens = Annotated[int | None, typer.Option("--max-num-batched-tokens", help=f"most tokens in one step; {_OWN}")]
ModelLength = Annotated[
    int | None,
    typer.Option(
        "--max-model-len", help="most tokens of one request, the model's own if not given; longer ones are cut"
    ),
]
BlockSize = Annotated[int | None, typer.Option(help=f"tokens in one KV cache block; {_OWN}")]
Blocks = Annotated[
    int | None,
    typer.Option(
        "--num-gpu-blocks-override",
        help="KV cache blocks; if not given what fits into a GPU, and enough for all on a CPU",
    ),
]
Utilization = Annotated[
    float | None,
    typer.Option(
        "--gpu-memory-utilization",
        help="share of the device's memory that is filled, which gives the KV cache blocks; 0.92 on a GPU",
    ),
]
MemoryOther = Annotated[float, typer.Option(help="GiB of that share that neither weights nor KV cache take")]
PrefixCaching = Annotated[
    bool | None,
    typer.Option(
        "--enable-prefix-caching/--no-enable-prefix-caching",
        help="reuse KV blocks of prompts that begin alike; on a GPU it does",
    ),
]
Asynchronous = Annotated[
    bool | None,
    typer.Option(
        "--async-scheduling/--no-async-scheduling",
        help="schedule the next step while the current one runs; on a GPU it does",
    ),
]


@dataclass(frozen=True)
class EngineOptions:
    """Options of the engine that were asked for; None where nothing was, and the engine's own value is taken."""

    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    max_model_len: int | None = None
    block_size: int | None = None
    blocks: int | None = None
    utilization: float | None = None
    memory_other: float = 1.3
    prefix_caching: bool | None = None
    asynchronous: bool | None = None

    def settings(self, on_gpu: bool, device: str, memory_bytes: float, folder: Path | None = None) -> "EngineSettings":
        """Settings of an engine: on a GPU those of `vllm serve`, on a CPU small ones.  `filled` sizes the KV cache.

        Args:
            device, memory_bytes: of the GPU, which decide what it takes by itself.
            folder: of the model's config.json, which states the longest context.

        Raises:
            SimulationError: they contradict each other.
        """
        from dooly.engine.defaults import gpu_limits, stated_length
        from dooly.engine.settings import EngineSettings
        from dooly.hardware.machine import BLOCK_SIZE

        own, block_size = EngineSettings(), self.block_size or BLOCK_SIZE["cuda" if on_gpu else "cpu"]
        sequences, tokens, length = self.max_num_seqs, self.max_num_batched_tokens, self.max_model_len
        if on_gpu:
            sequences, tokens = gpu_limits(device, memory_bytes, sequences, tokens)
            length = stated_length(folder) if length is None and folder is not None else length
        return EngineSettings(
            own.max_num_seqs if sequences is None else sequences,
            own.max_num_batched_tokens if tokens is None else tokens,
            own.max_model_len if length is None else length,
            block_size,
            self.blocks,
            prefix_caching=on_gpu if self.prefix_caching is None else self.prefix_caching,
            async_scheduling=on_gpu if self.asynchronous is None else self.asynchronous,
        )

    def filled(self, settings: "EngineSettings", model: "SavedModel", on_gpu: bool) -> "EngineSettings":
        """Settings with the KV cache blocks that fit into the memory beside the weights, where that decides.

        On a GPU it does unless their number was asked for, on a CPU if a share of the memory was.  Says how many, or
        why that cannot be told.

        Raises:
            SimulationError: not even one request fits, or nothing tells what a share of the memory holds.
        """
        from dooly.cli.output import say
        from dooly.engine.defaults import UTILIZATION
        from dooly.errors import SimulationError
        from dooly.simulate import kv_blocks
        from dooly.simulate.memory import kv_row_bytes

        if self.blocks is not None or (self.utilization is None and not on_gpu):
            return settings
        if self.utilization is None:
            try:
                kv_row_bytes(model.operations)
            except SimulationError as error:
                say(f"note: {error}: the KV cache is taken as large enough (--num-gpu-blocks-override says how large)")
                return settings
        share = UTILIZATION if self.utilization is None else self.utilization
        blocks = kv_blocks(model, settings.block_size, utilization=share, other_bytes=self.memory_other * 2**30)
        say(f"{blocks:,d} KV cache blocks of {settings.block_size} tokens fit into the memory")
        # More than all requests can use only matter to a prefix cache.
        return replace(settings, num_blocks=blocks if settings.prefix_caching else min(blocks, settings.blocks))


def load_trace(
    source: str,
    requests: int | None,
    rate: float | None,
    arrivals: Literal["trace", "poisson", "fixed"] = "trace",
    seed: int = 2023,
    options: Sequence[str] | None = None,
) -> "Trace":
    """The trace asked for; says how its file was read.

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
    return trace


def clipped(trace: "Trace", max_model_len: int) -> "Trace":
    """The trace, shortened to what the engine takes; says what was shortened."""
    from dooly.cli.output import say

    trace = trace.clip(max_model_len)
    if trace.clipped:
        say(f"{trace.clipped} of {len(trace)} requests were shortened to {max_model_len} tokens")
    return trace
