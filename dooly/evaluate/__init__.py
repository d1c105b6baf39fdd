"""Judges of dooly, apart from what dooly does: recordings of the real engine, held-out points, kernels, costs.

Importing this package imports neither torch nor vLLM; `record_runs` and `record_served` do when called.
"""

from dooly.evaluate.compare import RequestError, StepError, Validation, compare, costs_along
from dooly.evaluate.ladder import LADDER, read_ladder
from dooly.evaluate.record import record_runs
from dooly.evaluate.record_served import record_served
from dooly.evaluate.served import Served, ServedLoad, load_served, save_served

__all__ = [
    "LADDER",
    "RequestError",
    "Served",
    "ServedLoad",
    "StepError",
    "Validation",
    "compare",
    "costs_along",
    "load_served",
    "read_ladder",
    "record_runs",
    "record_served",
    "save_served",
]
