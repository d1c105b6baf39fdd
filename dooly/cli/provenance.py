"""``dooly verify-provenance``: dimensions of a captured model against what the engine really does."""

from typing import Annotated

import typer

from dooly.cli.options import AsJson, Backend, Models, TensorParallel

__all__ = ["verify_provenance"]

Witnesses = Annotated[int, typer.Option("--witnesses", min=1, help="random configurations beside the model's own")]
Seed = Annotated[int, typer.Option("--seed", help="of the random configurations")]


def verify_provenance(
    models: Models,
    tp: TensorParallel = 1,
    platform: Annotated[str, typer.Option("--platform", help="what the engine sees")] = "cpu",
    backend: Backend = None,
    witnesses: Witnesses = 4,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Check every dimension of a captured model by a second method.

    The engine's model is built again from plain numbers, at its own configuration and at random ones, and every
    operation that runs is compared with the graph.  Exit status 1 when a witness refutes a claim.

    Example: dooly verify-provenance llama-3.1-8b mixtral-8x7b --tp 4
    """
    from dooly.cli.output import Column, print_json, print_table, say
    from dooly.provenance import verify_provenance as verify

    reports = [verify(model, tp=tp, platform=platform, backend=backend, count=witnesses, seed=seed) for model in models]
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
    refuted = [each for report in reports for each in report.counterexamples]
    for each in refuted[:20]:
        say(f"refuted: {each}")
    if refuted:
        raise typer.Exit(1)
