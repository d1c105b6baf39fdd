"""Write dooly/data/models.ir, the operations of the measured models: python scripts/measured_models.py

Measured operations that it does not find again have another signature: canonical forms have changed since then.
"""

import sys
from dataclasses import replace

from dooly.capture import capture, load_engine
from dooly.files import write_text
from dooly.ir import Program
from dooly.passes import PIPELINE, run
from dooly.workspace.shipped import MEASURED, OPERATIONS


def main() -> int:
    """Capture each model as an H200 runs it, lower all to one table, and write it."""
    load_engine("h200")
    graphs = tuple(capture(model, tp=tp, platform="h200") for model, tp in MEASURED)
    table = run(Program(graphs), PIPELINE).operations
    write_text(OPERATIONS, str(Program((), tuple(replace(operation, status="") for operation in table))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
