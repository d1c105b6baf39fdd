"""The command line `dooly`: one module per command, each of them thin.

Importing this package and printing `--help` need neither torch nor vLLM nor the compiler: commands import what they
use when they run.
"""

import sys
from collections.abc import Sequence

from dooly.errors import DoolyError
from dooly.escape import show

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.  Results go to stdout, talk to stderr.

    Returns:
        The exit status: 0, or 2 after any mistake of the user, told in one line; 130 when interrupted.
    """
    import typer

    from dooly.cli.app import app
    from dooly.cli.output import tell_notes

    tell_notes()
    try:
        status = app(args=None if argv is None else list(argv), prog_name="dooly", standalone_mode=False)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except DoolyError as error:
        return _fail(str(error))
    except typer.TyperException as error:  # wrong usage: unknown option, missing argument, a number expected
        return _fail(f"{' '.join(error.format_message().split())} (see --help)")
    except BrokenPipeError:  # the reader of stdout has gone, e.g. `dooly formulas | head`
        sys.stderr.close()
        return 0
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        return _fail(f"{place}{error.strerror or error}")
    except (KeyboardInterrupt, typer.Abort):
        show("dooly: interrupted; what was measured is kept", file=sys.stderr)
        return 130


def _fail(message: str) -> int:
    show(f"dooly: error: {message}", file=sys.stderr)
    return 2
