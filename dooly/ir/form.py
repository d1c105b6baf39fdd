"""Errors of an operation that lacks an operand, a result, an axis or an attribute that its own rule reads."""

from collections.abc import Generator
from contextlib import contextmanager

from dooly.errors import DoolyError, VerifyError

__all__ = ["well_formed"]


@contextmanager
def well_formed(target: str, which: str) -> Generator[None]:
    """Name the operation, and its target, that the rule inside cannot read.

    Raises:
        VerifyError: the rule asked for something that is not there, or that is of another kind.
    """
    try:
        yield
    except DoolyError:
        raise
    except LookupError as error:
        missing = error if isinstance(error, KeyError) else "an operand, a result or an axis"
        raise VerifyError(f"{which} is no well-formed {target}: it lacks {missing}") from error
    except (ArithmeticError, AttributeError, TypeError, ValueError) as error:
        raise VerifyError(f"{which} is no well-formed {target}: {error}") from error
