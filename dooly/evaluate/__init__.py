"""What dooly is judged by: the real server under loads, recorded request by request and step by step."""

from dooly.evaluate.loads import LADDER, Load, read_ladder
from dooly.evaluate.record_served import record_served
from dooly.evaluate.served import Served, ServedLoad, ServedRequest, load_served, save_served

__all__ = [
    "LADDER",
    "Load",
    "Served",
    "ServedLoad",
    "ServedRequest",
    "load_served",
    "read_ladder",
    "record_served",
    "save_served",
]
