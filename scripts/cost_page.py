"""Write docs/results/what-measuring-costs.md from what ships with dooly: python scripts/cost_page.py"""

import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from dooly.database.difference import agreement_by_target, difference
from dooly.database.exchange import read_parquet
from dooly.evaluate.ledger_report import ledger_of
from dooly.files import write_text
from dooly.report import Column, Table, markdown
from dooly.workspace.shipped import DATA, measurements

__all__ = ["main"]

PAGE = Path(__file__).resolve().parent.parent / "docs" / "results" / "what-measuring-costs.md"

HEAD = """# What measuring costs

Written by `make reports` from the measurements that ship; `dooly ledger` and `dooly db diff` print the same for
people and, with `--json`, for programs.

## Three ways of measuring the same models

- **Model by model**: every operation of a model on the fixed grid of Vidur's profiler, up to 4,096 tokens, contexts of
  4,096 and 128 requests: 259 token counts, 10,776 batches of attention; one tensor-parallel size of each model, where
  Vidur takes four.
- **Deduplicated**: the same grid, each distinct operation once.
- **Sweep**: what was really measured: each distinct operation once, at few points that errors choose, up to 8,192
  tokens, contexts of 16,384 and 256 requests, mixed batches among them.

Seconds are those of one GPU's machine from the start of a point to its end. Of the fixed grid a part was measured, on
an H200: all GEMM and MoE points of Llama-3.1-8B, Gemma-2-9B and Qwen3-30B-A3B, 300 to 543 random batches of each
attention with FLASH_ATTN, and what regions there was time for. The rest is *counted*: points times the median time of a
measured point of the same kind, without set-up and compilation. The sweep's seconds are all that were spent: set-up,
compilation, start of the engine, points that failed.

On the H200 the sweep's attention and regions (617 s) are older than the rests between samples, which the grid was
measured with and which about double the seconds of a point: all taken today, the sweep would be at some 1,500 s, 96 %
less than the grid. The H100 knows no rests on either side; there a point of the grid counts as much as a quick one of
the sweep.

Held-out points were drawn at random over all that the sweep covers; those that it measured, too, do not count. All
three were measured with cold caches, and products and experts on a rested GPU. Most held-out batches of attention are
beyond the grid, which has no mixed batches and no contexts above 4,096; the last line is of points within it alone. On
the very sizes of the grid formulas of a few points are not as good as formulas of hundreds: the last two columns.
"""

REPEATED = """
## Measured twice

Ratios of latencies of the same points, drawn at random: another day and another machine over what ships, on the same
kind of GPU, whose clocks and temperature are its own.
"""

_AGREEMENT = (
    Column("target", "operations"),
    Column("points", "points", ",d"),
    Column("p5", "5 %", ".3f"),
    Column("median", "median", ".3f"),
    Column("p95", "95 %", ".3f"),
    Column("within_2", "within 2 % (%)", ".0f"),
    Column("within_5", "within 5 % (%)", ".0f"),
    Column("within_10", "within 10 % (%)", ".0f"),
)


def main() -> int:
    """Write the page."""
    write_text(PAGE, "\n".join(_page()))
    return 0


def _page() -> Iterator[str]:
    platforms = sorted(path.stem for path in DATA.glob("*.parquet"))
    yield HEAD
    for platform in platforms:
        yield f"### {platform.upper()}\n"
        for backend in (None, "FLASH_ATTN"):
            first, *others = ledger_of(platform, backend, errors=backend is None).tables()
            yield from map(markdown, (first, *others) if backend is None else (first,))
    yield REPEATED
    for platform in platforms:
        for repeated in sorted((DATA / "evaluation").glob(f"{platform}-repeat*.parquet")):
            found = agreement_by_target(difference(read_parquet(measurements(platform)), read_parquet(repeated)))
            rows = [{"target": target, **asdict(each)} for target, each in found.items()]
            yield markdown(Table(f"`{repeated.stem}`", _AGREEMENT, rows))


if __name__ == "__main__":
    sys.exit(main())
