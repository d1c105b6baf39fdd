"""Judges of dooly, apart from what dooly does: recordings of the real engine, held-out points, kernels, costs.

Importing this package imports neither torch nor vLLM; `record_runs` does when called.
"""

from dooly.evaluate.compare import RequestError, StepError, Validation, compare, costs_along
from dooly.evaluate.record import record_runs

__all__ = ["RequestError", "StepError", "Validation", "compare", "costs_along", "record_runs"]
