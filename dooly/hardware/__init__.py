"""The machine: GPUs, processors, topology, installed software, and the environments that measured points are kept in.

Importing this package imports neither torch nor vLLM.
"""

from dooly.hardware.environment import (
    at_home,
    environment_for,
    home_of,
    host_environment,
    machine_behind,
    stored_machine,
)
from dooly.hardware.machine import Machine, machine

__all__ = [
    "Machine",
    "at_home",
    "environment_for",
    "home_of",
    "host_environment",
    "machine",
    "machine_behind",
    "stored_machine",
]
