"""Write the table of operations that a sweep measures: python scripts/sweep_table.py BACKEND... -o SWEEP.ir

Operations of the measured models, attention once for each of the named backends.
"""

import argparse
import sys
from pathlib import Path

from dooly.cli.shipped import measured_models
from dooly.executor.ledger import with_backends
from dooly.files import write_text
from dooly.ir import Program


def main(argv: list[str] | None = None) -> int:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backends", nargs="+", choices=["FLASH_ATTN", "FLASHINFER", "TRITON_ATTN"])
    parser.add_argument("-o", "--output", required=True, type=Path)
    options = parser.parse_args(argv)
    operations = with_backends(measured_models().operations, options.backends)
    write_text(options.output, str(Program((), operations)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
