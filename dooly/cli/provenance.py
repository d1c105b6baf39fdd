"""``dooly verify-provenance``: dimensions of a captured model against what the engine really does."""

from typing import Annotated, Literal

import typer

from dooly.cli.options import AsJson, Backend, Models, TensorParallel

__all__ = ["verify_provenance"]

Witnesses = Annotated[int, typer.Option("--witnesses", min=1, help="random configurations beside the model's own")]
Seed = Annotated[int, typer.Option("--seed", help="of the random configurations")]


def verify_provenance(
    models: Models,
    tp: TensorParallel = 1,
    dp: Annotated[int, typer.Option("--dp", help="data-parallel size of a mixture of experts")] = 1,
    expert_parallel: Annotated[bool, typer.Option("--expert-parallel", help="a rank holds whole experts")] = False,
    pp: Annotated[int, typer.Option("--pp", help="pipeline stages; each distinct one has a row")] = 1,
    platform: Annotated[str, typer.Option("--platform", help="what the engine sees: cpu, h100, h200")] = "cpu",
    backend: Backend = None,
    quantization: Annotated[str | None, typer.Option("--quantization", help="fp8 weights; on GPUs")] = None,
    kv_cache_dtype: Annotated[str | None, typer.Option("--kv-cache-dtype", help="fp8 KV cache; on GPUs")] = None,
    eager: Annotated[bool, typer.Option("--eager", help="what runs without compilation")] = False,
    frontend: Annotated[
        Literal["vllm", "export"], typer.Option("--frontend", help="the engine's model, or that of transformers")
    ] = "vllm",
    witnesses: Witnesses = 4,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Check every dimension of a captured model by a second method.

    The engine's model is built again from plain numbers, at its own configuration and at random ones, and every
    operation that runs is compared with the graph.  Exit status 1 when a witness refutes a claim.

    Example: dooly verify-provenance llama-3.1-8b mixtral-8x7b --tp 4
    """
    from dooly.capture import Options, Parallel
    from dooly.cli.output import print_json, print_table, say
    from dooly.errors import CaptureError
    from dooly.provenance import verify_provenance as verify
    from dooly.report import Column

    parallel = Parallel(tp, dp, expert_parallel, pp)
    options = Options(parallel, platform, backend, quantization, kv_cache_dtype, eager)
    if files := [model for model in models if model.endswith(".ir")]:
        raise CaptureError(f"{files[0]}: IR cannot be built again at other sizes; name the model or its config.json")
    exported = frontend == "export"
    if exported and options != Options():
        raise CaptureError("--frontend export has no engine: leave out --tp, --platform, --backend and the like")
    reports = [
        report for model in models for report in verify(model, options, exported=exported, count=witnesses, seed=seed)
    ]
    if as_json:
        print_json([report.document() for report in reports])
    else:
        rows = [{**report.document(), "witnesses": len(report.witnesses)} for report in reports]
        print_table(
            "dimensions derived from the configuration and the request, and confirmed by witnesses",
            (
                Column("model", "model"),
                Column("dimensions", "dimensions", ",d"),
                Column("derived", "derived", ",d"),
                Column("confirmed", "confirmed", ",d"),
                Column("claims", "claims", ",d"),
                Column("claims_confirmed", "confirmed", ",d"),
                Column("witnesses", "witnesses", ",d"),
                Column("seconds", "time (s)", ".1f"),
            ),
            rows,
        )
        for report in reports:
            if report.fixed:
                say(f"{report.model}: the same in all witnesses: {', '.join(report.fixed)}")
    refuted = [each for report in reports for each in report.counterexamples]
    for each in refuted[:20]:
        say(f"refuted: {each}")
    if refuted:
        raise typer.Exit(1)
