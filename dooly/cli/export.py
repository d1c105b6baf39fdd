"""``dooly export``: step times in the files of other simulators."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dooly.cli.options import DATABASE, Backend, Db, Platform, TensorParallel
from dooly.cli.planning import Context, RequestsPerStep, TokensPerStep
from dooly.cli.serving import BlockSize

if TYPE_CHECKING:
    from dooly.adapters.coefficients import Projection
    from dooly.adapters.grid import Outside
    from dooly.predict import SavedModel

__all__ = ["app"]

app = typer.Typer(
    help="Write step times for other simulators; each target's --help names its version, files and units.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Source = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="bundled model, config.json or its folder, .ir file; or .json from `dooly export steps`",
        show_default=False,
    ),
]
Output = Annotated[Path, typer.Option("--output", "-o", help="file to write", show_default=False)]
Folder = Annotated[Path, typer.Option("--output", "-o", help="folder to write into", show_default=False)]
Hardware = Annotated[str, typer.Option(help="name of the device in the simulator's configuration", show_default=False)]


@app.command()
def steps(
    model: Source,
    output: Output,
    db: Db = DATABASE,
    tp: TensorParallel = 1,
    platform: Platform = None,
    backend: Backend = None,
    block_size: Annotated[
        int | None, typer.Option(help="tokens in one KV cache block; the engine's or the stored one if not given")
    ] = None,
) -> None:
    """Everything that predictions of one model need, as one JSON file.

    For programs that run without the engine and without the database: `python -m dooly.adapters.vidur FILE`, the
    Python interfaces in `dooly.adapters`, and all other targets of this command.

    Example: dooly export steps tiny-llama -o tiny-llama.json
    """
    from dooly.cli.output import say

    _load(model, db, tp, backend, block_size, platform).save(output)
    say(f"wrote {output}")


@app.command()
def dynamo(
    model: Source,
    output: Output,
    db: Db = DATABASE,
    max_tokens: TokensPerStep = 512,
    max_requests: RequestsPerStep = 16,
    max_context: Context = 2048,
) -> None:
    """NVIDIA Dynamo, mocker and replay (ai-dynamo 1.2.1): one NPZ file, times in ms.

    Arrays prefill_isl, prefill_ttft_ms, decode_active_kv_tokens, decode_context_length and decode_itl.

    Example: dooly export dynamo tiny-llama -o tiny-llama.npz
    """
    from dooly.adapters.dynamo import write_npz
    from dooly.adapters.grid import Limits

    saved = _load(model, db)
    _told([output], write_npz(saved, output, Limits(max_tokens, max_requests, max_context)), saved)


@app.command()
def vidur(
    model: Source,
    output: Folder,
    db: Db = DATABASE,
    max_tokens: TokensPerStep = 512,
    max_requests: RequestsPerStep = 16,
    max_context: Context = 2048,
    block_size: BlockSize = 16,
) -> None:
    """Vidur's own predictors (microsoft/vidur of 2024-11; vidur 0.0.26 has the same columns): times in ms of a layer.

    mlp.csv and attention.csv. What Vidur has no operation for (embedding, LM head, host) is not in them: for whole step
    times run Vidur as `python -m dooly.adapters.vidur` on `dooly export steps`.

    Example: dooly export vidur tiny-llama -o vidur-data
    """
    from dooly.adapters.grid import Limits
    from dooly.adapters.vidur.tables import write_tables

    saved = _load(model, db)
    outside = write_tables(saved, output, Limits(max_tokens, max_requests, max_context), block_size)
    _told([output / "mlp.csv", output / "attention.csv"], outside, saved)


@app.command()
def llmservingsim(
    model: Source,
    output: Folder,
    hardware: Hardware,
    name: Annotated[str, typer.Option(help="model in the simulator, e.g. meta-llama/Llama-3.1-8B", show_default=False)],
    architecture: Annotated[str, typer.Option(help="one of its profiler/models/*.yaml")] = "llama",
    db: Db = DATABASE,
    max_tokens: TokensPerStep = 512,
    max_requests: RequestsPerStep = 16,
    max_context: Context = 2048,
) -> None:
    """LLMServingSim 2.0 (v1.1.0): a profile bundle under its profiler/perf, times in us of a layer.

    meta.yaml, tp1/dense.csv, per_sequence.csv, attention.csv, and moe.csv of a mixture of experts.

    Example: dooly export llmservingsim llama-3.1-8b -o profiler/perf --hardware H200 --name meta-llama/Llama-3.1-8B
    """
    from dooly.adapters.grid import Limits
    from dooly.adapters.llmservingsim import write_bundle

    saved = _load(model, db)
    limits = Limits(max_tokens, max_requests, max_context)
    folder, outside = write_bundle(saved, output, limits, hardware, name, architecture)
    _told([folder], outside, saved)


@app.command()
def splitwise(
    model: Source,
    output: Output,
    hardware: Hardware,
    name: Annotated[str, typer.Option(help="model in its model_repo, e.g. llama2-70b", show_default=False)],
    db: Db = DATABASE,
    max_tokens: TokensPerStep = 512,
    max_requests: RequestsPerStep = 16,
    context: Annotated[int, typer.Option(help="tokens of each request that decodes")] = 1024,
) -> None:
    """SplitwiseSim (Mutinifni/splitwise-sim at 8f99e7d): its data/perf_model.csv, times in ms.

    It knows steps by their number of tokens alone, so the context of requests that decode is fixed here.

    Example: dooly export splitwise llama-3.1-8b -o data/perf_model.csv --hardware h100-80gb --name llama2-70b
    """
    from dooly.adapters.grid import Limits
    from dooly.adapters.splitwise import write_csv

    saved = _load(model, db)
    _told([output], write_csv(saved, output, Limits(max_tokens, max_requests, context), hardware, name), saved)


@app.command()
def xpyd(
    model: Source,
    output: Output,
    db: Db = DATABASE,
    max_tokens: TokensPerStep = 512,
    max_requests: RequestsPerStep = 16,
    max_context: Context = 2048,
) -> None:
    """xPyD-sim 0.5.0: a profile with coefficients of its prefill and decode formulas, times in ms.

    Least-squares projections of step times; their errors are printed and kept in the file.

    Example: dooly export xpyd tiny-llama -o profile.yaml
    """
    from dooly.adapters.coefficients import write_xpyd
    from dooly.adapters.grid import Limits

    saved = _load(model, db)
    outside, projections = write_xpyd(saved, output, Limits(max_tokens, max_requests, max_context))
    _told([output], outside, saved, projections)


@app.command()
def distserve(
    model: Source,
    output: Output,
    name: Annotated[str, typer.Option(help="model in the simulator")] = "facebook/opt-13b",
    db: Db = DATABASE,
    max_tokens: TokensPerStep = 512,
    max_requests: RequestsPerStep = 16,
    max_context: Context = 2048,
) -> None:
    """simdistserve (LLMServe/DistServe at 82831f1): a profiler JSON with coefficients of its formulas, times in ms.

    Least-squares projections of step times; their errors are printed and kept in the file. The simulator knows three
    model names only (facebook/opt-13b, -66b, -175b): pick the one under which you run it.

    Example: dooly export distserve tiny-llama -o profiler-a100-80g.distserve.json
    """
    from dooly.adapters.coefficients import write_distserve
    from dooly.adapters.grid import Limits

    saved = _load(model, db)
    outside, projections = write_distserve(saved, output, Limits(max_tokens, max_requests, max_context), name)
    _told([output], outside, saved, projections)


def _load(
    model: str,
    db: str,
    tp: int = 1,
    backend: str | None = None,
    block_size: int | None = None,
    platform: str | None = None,
) -> "SavedModel":
    """From a file of step times, or from the database.

    Raises:
        DoolyError: neither gives them.
    """
    from dooly.predict import SavedModel

    if model.endswith(".json") and Path(model).name != "config.json":
        return SavedModel.load(model)
    from dooly.cli.knowledge import saved_model

    return saved_model(model, db, backend, block_size, tp, platform)


def _told(
    written: "list[Path]", outside: "Outside", saved: "SavedModel", projections: "list[Projection] | None" = None
) -> None:
    """Say what was written and how far to trust it."""
    from dooly.cli.output import say

    for projection in projections or ():
        say(str(projection))
    if saved.device_only:
        say(f"note: {saved.name} on {saved.device}: device time only, host time is not measured")
    if message := outside.message(saved.name):
        say(message)
    for path in written:
        say(f"wrote {path}")
