"""Write docs/results/where-gpu-time-goes.md from the recorded engine steps that ship: python scripts/kernel_page.py"""

import sys
from collections.abc import Iterator
from pathlib import Path

from dooly.evaluate.kernel_report import kernel_classes
from dooly.evaluate.replay import kernel_report
from dooly.evaluate.steps import load_steps
from dooly.files import write_text
from dooly.report import markdown
from dooly.workspace.defaults import DATABASE
from dooly.workspace.shipped import DATA

__all__ = ["main"]

PAGE = Path(__file__).resolve().parent.parent / "docs" / "results" / "where-gpu-time-goes.md"

HEAD = """# Where GPU time goes

Written by `make reports` from the recorded engine steps that ship; `dooly kernels FILE` prints the same of any
recording and, with `--json`, every number behind it.

Kernels are attributed by name (`dooly/evaluate/kernels.py`): cuBLAS products with the sums of their split parts and
the counters that they clear to GEMM; the attention library with its scheduler, the combining of splits and the writing
of the KV cache to attention; what the engine's compiler made to regions; the choice of tokens to sampling; copies and
the engine's own bookkeeping kernels to input, which is no operation of the IR. What no pattern knows is unattributed.

Operations are measured one by one, in a CUDA graph that repeats them, on a rested GPU; steps were recorded with the
engine's own scheduler. What the power limit makes of a step's operations together is in the predictions (`power_limit`,
[how it is measured](../how-to/measure-a-gpu.md)); the H100 takes it, and products of more than 512 rows, from the H200
([lent](../how-to/measure-a-gpu.md#what-another-gpu-lends)). Causes of differences: an operation's time includes the gap
before its kernel, which the sum of kernels leaves out (some 1 us: much of a small region); between 513 and 1,023 rows
the library changes the kernel of a product every 8 or 16 rows, and multiples of 32 stand out, which were not measured.
Where the host is slower than the GPU (mixed and short prefill steps without full graphs) the GPU waits: GPU time with
its gaps is then longer than the sum of all operations. Launches are slower in a process that a profiler has been in, as
all of these were.
"""


def main() -> int:
    """Write the page."""
    write_text(PAGE, "\n".join(_page()))
    return 0


def _page() -> Iterator[str]:
    yield HEAD
    paths = sorted((DATA / "evaluation").glob("*-steps-*.json"))
    reports = {path.stem: kernel_report(path.stem, load_steps(path), DATABASE) for path in paths}
    every = [{**row, "label": f"{name}, {row['label']}"} for name, found in reports.items() for row in found.profiled]
    yield markdown(kernel_classes("## All steps", every))
    for platform in sorted({row["label"].partition("-")[0] for row in every}):
        theirs = [row for row in every if row["label"].startswith(f"{platform}-")]
        yield markdown(kernel_classes(f"## All steps of the {platform.upper()}", theirs))
    for name, report in reports.items():
        yield f"## {name}\n"
        yield from map(markdown, report.tables())


if __name__ == "__main__":
    sys.exit(main())
