"""The executor: plans what to measure, measures it through the engine's own code, and stores each point as it is taken.

Importing this package imports neither torch nor vLLM.
"""

from dooly.executor.environment import (
    at_home,
    environment_for,
    home_of,
    host_environment,
    machine_behind,
    stored_machine,
)
from dooly.executor.execute import Event, Outcome, run_plan
from dooly.executor.machine import Machine, machine
from dooly.executor.plan import Plan, Row, make_plan
from dooly.executor.sweep import ErrorModel, Ranges
from dooly.executor.timing import Precision

__all__ = [
    "ErrorModel",
    "Event",
    "Machine",
    "Outcome",
    "Plan",
    "Precision",
    "Ranges",
    "Row",
    "at_home",
    "environment_for",
    "home_of",
    "host_environment",
    "machine",
    "machine_behind",
    "make_plan",
    "run_plan",
    "stored_machine",
]
