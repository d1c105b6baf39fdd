"""``dooly export``: step times in the files of other simulators."""

from typing import TYPE_CHECKING, Annotated

import typer

from dooly.cli.exporting import Folder, Hardware, Output, Written, target
from dooly.cli.planning import RequestsPerStep, TokensPerStep

if TYPE_CHECKING:
    from dooly.adapters.grid import Limits
    from dooly.predict import SavedModel

__all__ = ["app"]

app = typer.Typer(
    help="Write step times for other simulators; each target's --help names its version, files and units.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@target(app)
def steps(saved: "SavedModel", output: Output) -> Written:
    """Everything that predictions of one model need, as one JSON file.

    For programs that run without the engine and without the database: `python -m dooly.adapters.vidur FILE`, the
    Python interfaces in `dooly.adapters`, and all other targets of this command.

    Example: dooly export steps tiny-llama -o tiny-llama.json
    """
    saved.save(output)
    return Written([output])


@target(app)
def vidur(
    saved: "SavedModel",
    output: Folder,
    limits: "Limits",
    vidur_block_size: Annotated[int, typer.Option(help="tokens in one KV cache block in Vidur's configuration")] = 16,
) -> Written:
    """Vidur's own predictors (microsoft/vidur of 2024-11; vidur 0.0.26 has the same columns): times in ms of a layer.

    mlp.csv and attention.csv, all_reduce.csv of more than one rank, and send_recv.csv of a pipeline stage that another
    follows (--stage 0/2). What Vidur has no operation for (embedding, LM head, host) is not in them: for whole step
    times run Vidur as `python -m dooly.adapters.vidur` on `dooly export steps`.

    Example: dooly export vidur tiny-llama -o vidur-data
    """
    from dooly.adapters.vidur.tables import write_tables

    return Written(*write_tables(saved, output, limits, vidur_block_size))


@target(app)
def dynamo(saved: "SavedModel", output: Output, limits: "Limits") -> Written:
    """NVIDIA Dynamo, mocker and replay (ai-dynamo 1.2.1): one NPZ file, times in ms.

    Arrays prefill_isl, prefill_ttft_ms, decode_active_kv_tokens, decode_context_length and decode_itl.

    Example: dooly export dynamo tiny-llama -o tiny-llama.npz
    """
    from dooly.adapters.dynamo import write_npz

    return Written([output], write_npz(saved, output, limits))


@target(app)
def llmservingsim(
    saved: "SavedModel",
    output: Folder,
    hardware: Hardware,
    name: Annotated[str, typer.Option(help="model in the simulator, e.g. meta-llama/Llama-3.1-8B", show_default=False)],
    limits: "Limits",
    architecture: Annotated[str, typer.Option(help="one of its profiler/models/*.yaml")] = "llama",
) -> Written:
    """LLMServingSim 2.0 (v1.1.0): a profile bundle under its profiler/perf, times in us of a layer.

    meta.yaml and, in tp1 or tp2, ..., dense.csv, per_sequence.csv, attention.csv, and moe.csv of a mixture of experts.

    Example: dooly export llmservingsim llama-3.1-8b -o profiler/perf --hardware H200 --name meta-llama/Llama-3.1-8B
    """
    from dooly.adapters.llmservingsim import write_bundle

    folder, outside = write_bundle(saved, output, limits, hardware, name, architecture)
    return Written([folder], outside)


@target(app)
def aiconfigurator(
    saved: "SavedModel",
    output: Folder,
    limits: "Limits",
    system: Annotated[
        str, typer.Option(help="name of the device there, whose data sheet is SYSTEM.yaml", show_default=False)
    ],
) -> Written:
    """AIConfigurator (aiconfigurator-core 0.12.0): Parquet tables below a private systems root, times in ms.

    gemm_perf, context_attention_perf and generation_attention_perf, moe_perf of a mixture of experts, and
    custom_allreduce_perf of more than one rank, each in data/SYSTEM/FAMILY/vllm/VERSION of the engine. Further models
    add rows.

    Example: dooly export aiconfigurator llama-3.1-8b --platform h200 -o systems --system h200_sxm
    """
    from dooly.adapters.aiconfigurator import write_systems

    paths, outside = write_systems(saved, output, limits, system)
    sheet = output / f"{system}.yaml"
    missing = f"{sheet} is not there yet: copy AIConfigurator's own systems/{system}.yaml, the device's data sheet"
    return Written(paths, outside, notes=[] if sheet.exists() else [missing])


@target(app)
def aisimulate(
    saved: "SavedModel",
    output: Folder,
    limits: "Limits",
    system: Annotated[str, typer.Option(help="name of the device there, e.g. h200_sxm", show_default=False)],
    name: Annotated[str, typer.Option(help="model there, e.g. Qwen/Qwen3-32B", show_default=False)],
) -> Written:
    """AISimulate: forward-pass times of whole steps, in ms, for models in 16 bits.

    fpm_forward_perf.parquet and its metadata (schema 6, as aiconfigurator-core 0.12.0 reads it in its mode ``fpm``) in
    data/SYSTEM/vllm/VERSION of the engine, below a private systems root.

    Example: dooly export aisimulate qwen3-32b --tp 2 --gpu h200 -o systems --system h200_sxm --name Qwen/Qwen3-32B
    """
    from dooly.adapters.aisimulate import write_pair

    return Written(*write_pair(saved, output, limits, system, name))


@target(app)
def splitwise(
    saved: "SavedModel",
    output: Output,
    hardware: Hardware,
    name: Annotated[str, typer.Option(help="model in its model_repo, e.g. llama2-70b", show_default=False)],
    max_tokens: TokensPerStep = 512,
    max_requests: RequestsPerStep = 16,
    context: Annotated[int, typer.Option(help="tokens of each request that decodes")] = 1024,
) -> Written:
    """SplitwiseSim (Mutinifni/splitwise-sim at 8f99e7d): its data/perf_model.csv, times in ms.

    It knows steps by their number of tokens alone, so the context of requests that decode is fixed here.

    Example: dooly export splitwise llama-3.1-8b -o data/perf_model.csv --hardware h100-80gb --name llama2-70b
    """
    from dooly.adapters.grid import Limits
    from dooly.adapters.splitwise import write_csv

    return Written([output], write_csv(saved, output, Limits(max_tokens, max_requests, context), hardware, name))


@target(app)
def xpyd(saved: "SavedModel", output: Output, limits: "Limits") -> Written:
    """xPyD-sim 0.5.0: a profile with coefficients of its prefill and decode formulas, times in ms.

    Least-squares projections of step times; their errors are printed and kept in the file.

    Example: dooly export xpyd tiny-llama -o profile.yaml
    """
    from dooly.adapters.coefficients import write_xpyd

    return Written([output], *write_xpyd(saved, output, limits))


@target(app)
def distserve(
    saved: "SavedModel",
    output: Output,
    limits: "Limits",
    name: Annotated[str, typer.Option(help="model in the simulator")] = "facebook/opt-13b",
) -> Written:
    """simdistserve (LLMServe/DistServe at 82831f1): a profiler JSON with coefficients of its formulas, times in ms.

    Least-squares projections of step times; their errors are printed and kept in the file. The simulator knows three
    model names only (facebook/opt-13b, -66b, -175b): pick the one under which you run it.

    Example: dooly export distserve tiny-llama -o profiler-a100-80g.distserve.json
    """
    from dooly.adapters.coefficients import write_distserve

    return Written([output], *write_distserve(saved, output, limits, name))


@target(app)
def blis(saved: "SavedModel", output: Folder, hardware: Hardware, limits: "Limits") -> Written:
    """BLIS (inference-sim v0.7.9): coefficients of its trained-physics model, times in us.

    hardware_config.json with one device, and coefficients.json: a least-squares projection of step times with its
    error. The flags with which BLIS takes both are printed.

    Example: dooly export blis tiny-llama -o blis --hardware H200
    """
    from dooly.adapters.blis import command, write_blis

    outside, projection = write_blis(saved, output, limits, hardware)
    paths = [output / "hardware_config.json", output / "coefficients.json"]
    return Written(paths, outside, [projection], [command(saved, output, hardware)])
