"""Options of the commands that compare models with the database: how large batches may become."""

from typing import Annotated

import typer

__all__ = ["AllReduce", "Context", "Eager", "RequestsPerStep", "Sweep", "TokensPerStep"]

TokensPerStep = Annotated[int, typer.Option("--max-tokens", help="most tokens of one step")]
RequestsPerStep = Annotated[int, typer.Option("--max-requests", help="most requests of one step")]
Context = Annotated[int, typer.Option("--max-context", help="longest context of one request, tokens")]
Sweep = Annotated[
    str,
    typer.Option(
        "--sweep",
        help="adaptive: a coarse grid, then points where the curve is known worst; skew: also experts that are "
        "hit unevenly; vidur: the fixed grid of Vidur",
    ),
]
Eager = Annotated[
    bool, typer.Option("--eager", help="nothing compiled, kernels launched one by one, as with --enforce-eager")
]
AllReduce = Annotated[
    bool, typer.Option("--disable-custom-all-reduce", help="between GPUs NCCL only, as the engine's option says")
]
