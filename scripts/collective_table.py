"""Write the collectives of the measured models over several GPUs: python scripts/collective_table.py RANKS -o TABLE.ir

Those of tensor parallelism, of one pipeline stage after the other, and of experts spread over data-parallel ranks.
`dooly profile TABLE.ir` measures them on a machine with so many GPUs.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

from dooly.capture import capture_stages
from dooly.capture.options import Options
from dooly.capture.parallel import Parallel
from dooly.errors import CaptureError
from dooly.files import write_text
from dooly.ir import Kind, Program
from dooly.passes import PIPELINE, run
from dooly.workspace.shipped import MEASURED

_MIXTURES = ("qwen3-30b-a3b", "mixtral-8x7b")


def main(argv: list[str] | None = None) -> int:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ranks", type=int)
    parser.add_argument("-o", "--output", required=True, type=Path)
    parser.add_argument("--platform", default="h100")
    options = parser.parse_args(argv)
    try:
        programs = tuple(_programs(options.ranks, options.platform))
    except CaptureError as error:
        sys.stderr.write(f"collective_table: {error}\n")
        return 2
    tables = (run(program, PIPELINE).operations for program in programs)
    between = {each.signature: replace(each, status="") for each in chain(*tables) if each.kind is Kind.COLLECTIVE}
    write_text(options.output, str(Program((), tuple(between.values()))))
    return 0


def _programs(ranks: int, platform: str) -> Iterator[Program]:
    """One for each way of spreading models: their names are the same in each."""
    models = tuple(model for model, _ in MEASURED)
    ways = (Parallel(tp=ranks), models), (Parallel(pp=ranks), models), (Parallel(dp=ranks, expert=True), _MIXTURES)
    for parallel, spread in ways:
        yield Program(tuple(chain(*(capture_stages(model, Options(parallel, platform)) for model in spread))))


if __name__ == "__main__":
    sys.exit(main())
