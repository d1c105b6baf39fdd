"""Tables of records, for pages and files.  Nothing here knows what the records are about."""

from dooly.report.tables import Column, Table, as_csv, markdown

__all__ = ["Column", "Table", "as_csv", "markdown"]
