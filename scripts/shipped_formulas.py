"""Write the formulas of bundled models on the measured GPUs that ship with dooly: make formulas

Those that ship already are taken over if they were fitted by the present code to the present points.
"""

from collections.abc import Iterator

from dooly.capture import Options, Parallel, check, list_models
from dooly.database import Known, NoPoints
from dooly.database.exchange import shipped_files
from dooly.errors import CaptureError
from dooly.hardware.environment import stored_machine
from dooly.workspace.captures import SIZES, shipped_graph
from dooly.workspace.fitted import Fitted, fitted_key, shipped, write_fitted
from dooly.workspace.lowering import lower


def fitted() -> Iterator[tuple[str, Fitted]]:
    """Formulas of every bundled model at every tensor-parallel size that ships, on every GPU that was measured."""
    known = Known(NoPoints("dooly.sqlite"), shipped_files())
    for path in shipped_files():
        machine = stored_machine(known, path.stem)
        for model in list_models():
            for tp in SIZES:
                if not _ships(model, tp, path.stem):
                    continue
                operations = lower([model], tp, platform=path.stem).operations
                key = fitted_key(known, operations, machine, ())
                yield key, shipped(key) or Fitted.now(known, operations, machine, ())


def _ships(model: str, tp: int, platform: str) -> bool:
    options = Options(Parallel(tp), platform)
    try:
        name, config = check(model, options)
    except CaptureError:
        return False
    return shipped_graph(name, config, options) is not None


if __name__ == "__main__":
    write_fitted(fitted())
