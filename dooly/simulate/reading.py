"""Files of recorded data, read: whatever is wrong with one is one line that names it."""

import gzip
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import Any

from dooly.errors import DoolyError, SimulationError

__all__ = ["check_format", "finite", "named", "reading", "whole"]


@contextmanager
def reading(path: str | Path, what: str) -> Generator[None]:
    """Around reading a file that should hold `what`.

    Raises:
        SimulationError: it cannot be read or holds something else.
    """
    try:
        yield
    except gzip.BadGzipFile as error:
        raise SimulationError(f"{path}: not {what}: not compressed by gzip, or damaged") from error
    except OSError as error:
        raise SimulationError(f"{path}: cannot be read: {error.strerror or error}") from error
    except DoolyError as error:
        raise SimulationError(str(error)) from error
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        IndexError,
        EOFError,
        RecursionError,
        OverflowError,
    ) as error:
        raise SimulationError(f"{path}: not {what}: {type(error).__name__}: {error}") from error


def check_format(path: str | Path, content: Mapping[str, Any], expected: str) -> None:
    """Check the version of a file's form.

    Raises:
        SimulationError: another one.
    """
    if content["format"] != expected:
        raise SimulationError(f"{path}: format {content['format']!r}; this version reads {expected!r}")


def finite(value: object) -> float:
    """A number of a file.

    Raises:
        ValueError: something else, infinite or not a number.

    >>> finite(1)
    1.0
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise ValueError(f"expected a finite number, found {str(value)[:80]!r}")
    return float(value)


def named(value: object) -> str:
    """A name of a file, not empty.

    Raises:
        ValueError: something else.

    >>> named("llama-3.1-8b")
    'llama-3.1-8b'
    """
    if not isinstance(value, str) or not value:
        raise ValueError(f"expected a name, found {str(value)[:80]!r}")
    return value


def whole(value: object) -> int:
    """A count of a file, at least 0.

    Raises:
        ValueError: something else.

    >>> whole(3)
    3
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"expected a whole number of at least 0, found {str(value)[:80]!r}")
    return value
