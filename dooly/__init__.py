"""Compiler-style analysis of LLM inference, from a config.json to simulated serving latencies.

    import dooly

    model = dooly.load("llama-3.1-8b", gpu="h200")
    model.predict("1:512x64").total_us                # one engine step, us
    print(model.bench(max_concurrency=16, num_prompts=64))

Importing this package imports none of its parts; a name is imported when it is used first.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dooly.batch import Batch
    from dooly.engine.options import EngineOptions
    from dooly.errors import DoolyError
    from dooly.simulate import Targets
    from dooly.workspace.api import (
        Benchmark,
        Exploration,
        LoadedModel,
        Prediction,
        Predictions,
        Simulation,
        explore,
        load,
        operations,
    )
    from dooly.workspace.measuring import Profile, profile
    from dooly.workspace.planning import Coverage, coverage

__all__ = [
    "Batch",
    "Benchmark",
    "Coverage",
    "DoolyError",
    "EngineOptions",
    "Exploration",
    "LoadedModel",
    "Prediction",
    "Predictions",
    "Profile",
    "Simulation",
    "Targets",
    "__version__",
    "coverage",
    "explore",
    "load",
    "operations",
    "profile",
]

__version__ = "0.1.0"

_ELSEWHERE = {
    "Batch": "dooly.batch",
    "Coverage": "dooly.workspace.planning",
    "DoolyError": "dooly.errors",
    "EngineOptions": "dooly.engine.options",
    "Profile": "dooly.workspace.measuring",
    "Targets": "dooly.simulate",
    "coverage": "dooly.workspace.planning",
    "profile": "dooly.workspace.measuring",
}
"""Module of each name that is not in `dooly.workspace.api`."""


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'dooly' has no attribute {name!r}")
    return getattr(import_module(_ELSEWHERE.get(name, "dooly.workspace.api")), name)
