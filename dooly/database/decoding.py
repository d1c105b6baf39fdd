"""Stored text turned into values, and one line where it is damaged."""

from collections.abc import Generator
from contextlib import contextmanager

from dooly.errors import DatabaseError

__all__ = ["decoding"]


@contextmanager
def decoding(place: str, what: str) -> Generator[None]:
    """Stored text that does not mean what it should was damaged or written by something else.

    Raises:
        DatabaseError: instead of the error of decoding.
    """
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        told = " ".join(str(error).split())[:200]
        raise DatabaseError(f"{place}: {what} is damaged ({told}); restore the file from a copy") from error
