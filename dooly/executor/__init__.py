"""The executor: plans what to measure, measures it through the engine's own code, and stores each point as it is taken.

Importing this package imports neither torch nor vLLM.
"""

from dooly.executor.plan import Plan, Row, make_plan
from dooly.executor.plan.sweep import ErrorModel, Ranges
from dooly.executor.run import Event, Outcome, run_plan
from dooly.executor.timing.cpu import Precision

__all__ = [
    "ErrorModel",
    "Event",
    "Outcome",
    "Plan",
    "Precision",
    "Ranges",
    "Row",
    "make_plan",
    "run_plan",
]
