"""Options of the commands that serve a trace: which requests, and when they arrive."""

from typing import Annotated, Literal

import typer

__all__ = ["Arrivals", "BatchedTokens", "Fast", "Rate", "Requests", "Seed", "Sequences", "TraceOption", "TraceSource"]


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
        help="what a trace file does not say: arrival=, prompt= or output=COLUMN, unit=s, ms, us, ns, min, h or d, "
        "block=tokens of one of hash_ids, zero=skip or one (requests without output), tokenizer=FOLDER; may be "
        "repeated",
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
Fast = Annotated[
    bool | None,
    typer.Option(
        "--fast/--no-fast",
        help="compact scheduler or vLLM's own, same batches; compact where it covers the model if not given",
    ),
]
