"""Every error that dooly raises on purpose: one line that names the place, what was found, and the way out."""

from dooly.escape import escaped

__all__ = [
    "CaptureError",
    "DatabaseError",
    "DoolyError",
    "FitError",
    "ParseError",
    "PassError",
    "PredictError",
    "ProfileError",
    "SimulationError",
    "TraceError",
    "VerifyError",
]


class DoolyError(Exception):
    """Base of all of them.  The command line prints its text on one line and exits with status 2.

    The text may quote files, names and arguments: what could not be seen in it is spelled out.
    """

    def __str__(self) -> str:
        return escaped(super().__str__())


class VerifyError(DoolyError, ValueError):
    """A graph or operation breaks a rule of the IR."""


class ParseError(DoolyError, ValueError):
    """Text is not IR.  Carries the place, so that an editor or the command line can point at it.

    Args:
        message: what was found and what was expected.
        line: 1-based line.
        column: 1-based column.
        text: the source line; shown with a caret below it, of a long one only what surrounds the place.
    """

    def __init__(self, message: str, line: int, column: int, text: str) -> None:
        self.line, self.column = line, column
        self._given = message, line, column, text
        before, after = escaped(text[: column - 1]), escaped(text[column - 1 : column + 100])
        if len(before) > 160:
            before = f"...{before[-100:]}"
        super().__init__(f"line {line}, column {column}: {message}\n  {before}{after}\n  {' ' * len(before)}^")

    def __reduce__(self) -> tuple[type["ParseError"], tuple[str, int, int, str]]:
        """Between processes, which make it anew from its arguments."""
        return type(self), self._given


class PassError(DoolyError, ValueError):
    """A pass cannot run: its name is unknown, a fact that it needs is missing, or its result does not verify."""


class CaptureError(DoolyError, ValueError):
    """A model cannot be captured from this configuration."""


class DatabaseError(DoolyError):
    """The latency database cannot be opened, read or written."""


class ProfileError(DoolyError, ValueError):
    """Measuring cannot start as asked."""


class FitError(DoolyError, ValueError):
    """A formula cannot be fitted to these points."""


class PredictError(DoolyError, ValueError):
    """A step time cannot be predicted: a formula is missing or the batch makes no sense."""


class TraceError(DoolyError, ValueError):
    """An arrival trace cannot be read."""


class SimulationError(DoolyError, ValueError):
    """A simulation or a recording cannot run as asked."""
