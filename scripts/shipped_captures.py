"""Write dooly/data/captures.zip, graphs of the bundled models as a GPU runs them: python scripts/shipped_captures.py"""

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from dooly.capture import Options, Parallel, capture_checked, check, list_models
from dooly.errors import CaptureError
from dooly.ir import Graph
from dooly.workspace.captures import CAPTURED_ON, SIZES, write_captures


def captured() -> Iterator[tuple[Mapping[str, Any], int, Graph]]:
    """Every bundled model at every tensor-parallel size that it can be split into."""
    for model in list_models():
        for tp in SIZES:
            options = Options(Parallel(tp), CAPTURED_ON)
            try:
                (graph,) = capture_checked(*check(model, options), options)
            except CaptureError as error:
                sys.stderr.write(f"{model} --tp {tp}: {error}\n")
                continue
            yield check(model, options)[1], tp, graph  # anew: the engine fills in what a configuration leaves out


if __name__ == "__main__":
    write_captures(captured())
