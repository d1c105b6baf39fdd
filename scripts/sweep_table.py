"""Write the table of operations that a sweep measures: python scripts/sweep_table.py BACKEND... -o SWEEP.ir

Operations of the measured models, attention once for each of the named backends, and what two of them have instead
where their weights are quantized to fp8 (`--platform` is the GPU whose code that is).
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from dooly.capture import capture
from dooly.errors import CaptureError
from dooly.evaluate.ledger import with_backends
from dooly.files import write_text
from dooly.ir import Operation, Program
from dooly.passes import PIPELINE, run
from dooly.workspace.shipped import measured_models

_IN_FP8 = ("llama-3.1-8b", "qwen2.5-7b")


def main(argv: list[str] | None = None) -> int:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backends", nargs="+", choices=["FLASH_ATTN", "FLASHINFER", "TRITON_ATTN"])
    parser.add_argument("-o", "--output", required=True, type=Path)
    parser.add_argument("--platform", default="h100")
    options = parser.parse_args(argv)
    operations = with_backends(measured_models().operations, options.backends)
    try:
        quantized = tuple(_quantized(options.platform))
    except CaptureError as error:
        sys.stderr.write(f"sweep_table: {error}\n")
        return 2
    write_text(options.output, str(Program((), (*operations, *quantized))))
    return 0


def _quantized(platform: str) -> Iterator[Operation]:
    """Operations that quantized models have and others have not."""
    graphs = tuple(capture(model, platform=platform, quantization="fp8") for model in _IN_FP8)
    for operation in run(Program(graphs), PIPELINE).operations:
        if "f8e4m3" in str(operation):
            yield replace(operation, status="")


if __name__ == "__main__":
    sys.exit(main())
