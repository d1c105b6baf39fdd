"""Values that hold where nobody says otherwise."""

__all__ = ["DATABASE"]

DATABASE = "dooly.sqlite"
"""Latency database: a file in the current folder."""
