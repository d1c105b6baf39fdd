"""Write docs/results/architectures.md, a row for each bundled model: python benchmarks/architectures.py

Everything in the table is measured by this run; nothing is copied from elsewhere.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dooly.capture import capture, list_models, load_engine
from dooly.errors import DoolyError
from dooly.files import write_text
from dooly.ir import Graph, Program, evaluate
from dooly.passes import PIPELINE, run, select
from dooly.passes.repetition import layer_classes
from dooly.provenance import verify_provenance

__all__ = ["main"]

PAGE = Path(__file__).resolve().parent.parent / "docs" / "results" / "architectures.md"
BUFFERS = ("cos_sin_cache", "normalizer", "_k_scale")
HEAD = """# Architectures

Written by `make architectures`: one run over all bundled models, vLLM on {cores} CPU cores. It measured each figure.

| column | meaning |
|---|---|
"""
MEANINGS = {
    "parameters": "elements of all weights, from the IR",
    "layers captured (distinct)": "layers captured, and how many of them differ by isomorphism; the others are counts",
    "operations": "operations of one step",
    "distinct": "operations left when equal ones count once",
    "only here": "those that no other model here has",
    "dimensions": "of all results in the captured graph",
    "derived": "share of them that are expressions over declared symbols, or constants, by construction",
    "confirmed": "share of them that every witness agrees with: the engine again in plain numbers at the model's own "
    "and at {witnesses} other configurations, one of them held out",
    "capture, passes": "seconds of one core, after the imports and one capture of `tiny-llama`, which imports what all "
    "models share ({load:.0f} s, once); the engine's code of an architecture is imported by its first model here",
    "witnesses": "seconds by the clock",
}
TITLES = (
    "model",
    "parameters",
    "layers captured (distinct)",
    "operations",
    "distinct",
    "only here",
    "dimensions",
    "derived",
    "confirmed",
    "capture (s)",
    "passes (s)",
    "witnesses (s)",
)
WITNESSES = 4
LARGE, SMALL = "deepseek-v3", "llama-3.1-8b"


@dataclass(frozen=True)
class Row:
    """One model as this run saw it; seconds of one core, but of witnesses by the clock."""

    graph: Graph
    program: Program
    capture_s: float
    passes_s: float
    derived: str
    confirmed: str
    witnesses_s: str
    dimensions: int


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="*", help="bundled models (default: all)")
    parser.add_argument("--no-witnesses", action="store_true", help="leave the slow second method out")
    parser.add_argument("-o", "--output", default=str(PAGE), metavar="FILE")
    args = parser.parse_args(argv)
    start = time.perf_counter()
    load_engine()
    capture("tiny-llama")  # the first capture imports what later ones find there
    load = time.perf_counter() - start
    rows: list[Row] = []
    failed: list[tuple[str, str]] = []
    for model in args.model or list_models():
        try:
            rows.append(_row(model, witnesses=not args.no_witnesses))
        except DoolyError as error:
            failed.append((model, str(error)))
        sys.stderr.write(f"{model}: {failed[-1][1] if failed and failed[-1][0] == model else 'done'}\n")
    head = HEAD.format(cores=len(os.sched_getaffinity(0)))
    head += "".join(f"| {name} | {text.format(load=load, witnesses=WITNESSES)} |\n" for name, text in MEANINGS.items())
    write_text(args.output, f"{head}\n" + "\n".join(_page(rows, failed)) + "\n")
    return 0


def _row(model: str, *, witnesses: bool) -> Row:
    start = time.process_time()
    graph = capture(model)
    captured = time.process_time()
    program = run(Program((graph,)), PIPELINE)
    done = time.process_time()
    (tainted,) = run(Program((graph,)), select("annotate-shapes,propagate-taint")).graphs
    origins = [value.origins for op in tainted.ops for value in op.results]
    dimensions = sum(len(value.type.shape) for op in tainted.ops for value in op.results)
    derived, confirmed, seconds = sum(map(len, filter(None, origins))), "", ""
    if witnesses:
        (report,) = verify_provenance(model, graphs=(graph,), count=WITNESSES)
        confirmed = _percent(report.confirmed, report.dimensions)
        seconds = f"{report.seconds:.1f}"
    return Row(
        graph, program, captured - start, done - captured, _percent(derived, dimensions), confirmed, seconds, dimensions
    )


def _best_of_three(*models: str) -> list[float]:
    """Shortest capture and passes of each model, seconds of one core."""
    seconds: dict[str, list[float]] = {model: [] for model in models}
    for _ in range(3):
        for model, taken in seconds.items():
            start = time.process_time()
            run(Program((capture(model),)), PIPELINE)
            taken.append(time.process_time() - start)
    return [min(taken) for taken in seconds.values()]


def _percent(part: int, whole: int) -> str:
    """Rounded down, so that 100 % means all."""
    return f"{int(1000 * part / whole) / 10:g} %" if whole else "-"


def _page(rows: Sequence[Row], failed: Sequence[tuple[str, str]]) -> Iterator[str]:
    yield f"| {' | '.join(TITLES)} |"
    yield "|---" + "|---:" * (len(TITLES) - 1) + "|"
    users: dict[str, int] = {}
    for row in rows:
        for operation in row.program.operations:
            users[operation.signature] = users.get(operation.signature, 0) + 1
    for row in rows:
        operations, graph = row.program.operations, row.graph
        classes = layer_classes(graph)
        cells = (
            graph.name,
            f"{_parameters(graph):,d}",
            f"{sum(map(len, classes))} ({len(classes)})",
            f"{sum(operation.count for operation in operations):,d}",
            str(len(operations)),
            str(sum(users[operation.signature] == 1 for operation in operations)),
            str(row.dimensions),
            row.derived,
            row.confirmed or "-",
            f"{row.capture_s:.2f}",
            f"{row.passes_s:.2f}",
            row.witnesses_s or "-",
        )
        yield f"| {' | '.join(cells)} |"
    table = run(Program(tuple(row.graph for row in rows)), PIPELINE).operations
    apart = sum(len(row.program.operations) for row in rows)
    seconds = sorted((row.capture_s + row.passes_s for row in rows), reverse=True)
    yield (
        f"\nTogether {len(table)} distinct operations instead of {apart} one model at a time, for "
        f"{sum(operation.count for operation in table):,d} in a step of each; "
        f"capture and passes of all {len(rows)} took {sum(seconds):.1f} s, of the 12 slowest {sum(seconds[:12]):.1f} s."
    )
    if {LARGE, SMALL} <= {row.graph.name for row in rows}:
        large, small = _best_of_three(LARGE, SMALL)
        yield (
            f"\nBest of three in turn, all imported: {LARGE} takes {large:.2f} s and {SMALL} {small:.2f} s, "
            f"{large / small:.1f} times as long."
        )
    if failed:
        yield "\n## What cannot be built here\n\n| model | reason |\n|---|---|"
        yield from (f"| {model} | {' '.join(reason.split())} |" for model, reason in failed)


def _parameters(graph: Graph) -> int:
    return sum(
        int(evaluate(op.count * op.results[0].type.numel, graph.config_values))
        for op in graph.ops
        if op.target == "weight" and not op.path.endswith(BUFFERS)
    )


if __name__ == "__main__":
    sys.exit(main())
