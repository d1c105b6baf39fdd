"""Step time of a batch: operations by their formulas, with the host around them."""

from dooly.batch import Batch, StepCost
from dooly.fit.observation import Routing
from dooly.predict.breakdown import Breakdown, Row
from dooly.predict.by_part import Parts
from dooly.predict.graphs import GraphPlan
from dooly.predict.host import HostModel, knows_host, needed_parts
from dooly.predict.model_file import SavedModel, weight_bytes
from dooly.predict.power import NO_LIMIT, PowerLimit, PowerState
from dooly.predict.step_model import StepModel, StepTimes
from dooly.predict.step_ops import Work, collect_work

__all__ = [
    "NO_LIMIT",
    "Batch",
    "Breakdown",
    "GraphPlan",
    "HostModel",
    "Parts",
    "PowerLimit",
    "PowerState",
    "Routing",
    "Row",
    "SavedModel",
    "StepCost",
    "StepModel",
    "StepTimes",
    "Work",
    "collect_work",
    "knows_host",
    "needed_parts",
    "weight_bytes",
]
