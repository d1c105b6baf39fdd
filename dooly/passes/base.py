"""Passes, and the runner that checks every one of them."""

import time
from collections.abc import Callable, Sequence
from typing import ClassVar, Protocol, runtime_checkable

from dooly.errors import PassError, VerifyError
from dooly.ir import Program, verify
from dooly.passes.facts import Fact

__all__ = ["Pass", "run"]


@runtime_checkable
class Pass(Protocol):
    """A frozen value with a kebab-case name; options are its fields.

    ``run`` maps a program to a new one.  It edits nothing, reads no environment and does no I/O.

    Attributes:
        requires: facts that must hold of the program that the pass is given.
        establishes: facts that hold of each program that it returns.
    """

    name: ClassVar[str]
    requires: ClassVar[tuple[Fact, ...]]
    establishes: ClassVar[tuple[Fact, ...]]

    def run(self, program: Program, /) -> Program:
        """The transformed program.

        Raises:
            PassError: the program holds what the pass cannot handle.
        """
        ...


def run(
    program: Program,
    passes: Sequence[Pass],
    after: Callable[[Pass, Program, float], None] | None = None,
) -> Program:
    """Run passes in order; verify the input and the result of each, and the facts that it requires and establishes.

    Args:
        after: called with the pass, its result and the seconds that it took.

    Raises:
        PassError: names the pass that failed and those that ran before it.
    """
    verify(program)
    for index, each in enumerate(passes):
        start = time.perf_counter()
        before = ", ".join(p.name for p in passes[:index]) or "none"
        try:
            _check(each.requires, program, "; run {} first")
            program = each.run(program)
            elapsed = time.perf_counter() - start
            verify(program)
            _check(each.establishes, program, ", though the pass says otherwise")
        except (PassError, VerifyError) as error:
            raise PassError(f"{each.name}: {error} (passes before it: {before})") from error
        if after is not None:
            after(each, program, elapsed)
    return program


def _check(facts: Sequence[Fact], program: Program, end: str) -> None:
    for fact in facts:
        if (found := fact.exception(program)) is not None:
            raise PassError(found + end.format(fact.provider))
