"""``python -m dooly.adapters.vidur STEPS.json [flags of Vidur]``."""

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from dooly.adapters.vidur.register import device_name, register
from dooly.errors import DoolyError
from dooly.escape import show
from dooly.predict import SavedModel

USAGE = """usage: python -m dooly.adapters.vidur STEPS.json [flags of Vidur]

Runs the installed Vidur (package vidur 0.0.26, or microsoft/vidur on PYTHONPATH) on dooly's step times.
STEPS.json comes from `dooly export steps MODEL -o STEPS.json`.  All of Vidur's flags work; these are set for you and
may be overridden:"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run Vidur's own main.

    Returns:
        The exit status: 0, or 2 after a mistake of the user, told in one line.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0].startswith("-"):
        show(f"{USAGE}\n\n  {' '.join(_defaults('MODEL', 'DEVICE', 1))}")
        return 0 if arguments in (["-h"], ["--help"]) else 2
    os.environ.setdefault("WANDB_MODE", "disabled")
    path, *flags = arguments
    try:
        model = SavedModel.load(path)
        slots = register(model)
        defaults = _defaults(model.name, device_name(model), model.tensor_parallel)
        sys.argv = ["vidur", *_missing(defaults, flags), *flags]
        import_module("vidur.main").main()
    except DoolyError as error:
        show(f"dooly: error: {error}", file=sys.stderr)
        return 2
    if message := slots.outside.message(model.name):
        show(f"dooly: {message}", file=sys.stderr)
    return 0


def _defaults(model: str, device: str, ranks: int) -> list[str]:
    return [
        "--execution_time_predictor_config_type=dummy",
        f"--replica_config_model_name={model}",
        f"--replica_config_device={device}",
        f"--replica_config_tensor_parallel_size={ranks}",
        "--replica_config_num_pipeline_stages=1",
        "--no-metrics_config_store_plots",
    ]


def _missing(defaults: list[str], flags: list[str]) -> list[str]:
    """Defaults that the user has not set."""
    given = {flag.partition("=")[0].replace("--no-", "--") for flag in flags}
    return [flag for flag in defaults if flag.partition("=")[0].replace("--no-", "--") not in given]


if __name__ == "__main__":
    sys.exit(main())
