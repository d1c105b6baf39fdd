"""The latency database (SQLite by default, PostgreSQL by URL)."""

from dooly.database.claims import Claim
from dooly.database.connection import place_of
from dooly.database.database import Database
from dooly.database.environment import Environment
from dooly.database.known import Known, PointSource
from dooly.database.point import Measurement, Point, Samples, Status
from dooly.database.records import Domain, Record, StoredOperation, SummaryRow

__all__ = [
    "Claim",
    "Database",
    "Domain",
    "Environment",
    "Known",
    "Measurement",
    "Point",
    "PointSource",
    "Record",
    "Samples",
    "Status",
    "StoredOperation",
    "SummaryRow",
    "place_of",
]
