"""The latency database (SQLite by default, PostgreSQL by URL).

SQLAlchemy is imported with the first name that needs it: what only looks at files of points does without.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from dooly.database.environment import Environment
from dooly.database.known import Known, NoPoints, PointSource
from dooly.database.point import Measurement, Point, Samples, Status
from dooly.database.records import Domain, Record, StoredOperation, SummaryRow, Times

if TYPE_CHECKING:
    from dooly.database.claims import Claim
    from dooly.database.connection import place_of
    from dooly.database.database import Database

__all__ = [
    "Claim",
    "Database",
    "Domain",
    "Environment",
    "Known",
    "Measurement",
    "NoPoints",
    "Point",
    "PointSource",
    "Record",
    "Samples",
    "Status",
    "StoredOperation",
    "SummaryRow",
    "Times",
    "place_of",
]

_LATE = {"Claim": "claims", "Database": "database", "place_of": "connection"}
"""Module of each name that needs SQLAlchemy."""


def __getattr__(name: str) -> object:
    if name not in _LATE:
        raise AttributeError(f"module 'dooly.database' has no attribute {name!r}")
    return getattr(import_module(f"dooly.database.{_LATE[name]}"), name)
