"""``dooly formulas``: what was fitted, for people."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dooly.cli.options import DATABASE, AsJson, Db, Platform
from dooly.escape import show

if TYPE_CHECKING:
    from dooly.database import PointSource
    from dooly.fit import Formula, Observation
    from dooly.hardware.gpus import PlatformSpec
    from dooly.ir import Operation

__all__ = ["formulas"]


@dataclass(frozen=True)
class _Found:
    """A formula with where it comes from; host work is no operation."""

    environment: str
    platform: str
    operation: "Operation | None"
    observations: "list[Observation]"
    formula: "Formula"


def formulas(
    operation: Annotated[
        str | None, typer.Argument(help="only operations whose name or signature starts so", show_default=False)
    ] = None,
    db: Db = DATABASE,
    platform: Platform = None,
    sympy: Annotated[bool, typer.Option("--sympy", help="print the symbolic parts as sympy reads them")] = False,
    latex: Annotated[bool, typer.Option("--latex", help="print the symbolic parts as LaTeX")] = False,
    plot: Annotated[
        Path | None, typer.Option(help="SVG file of one operation: measured, fitted, roofline", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print the fitted formulas.

    One line each: time in us, parameters with units and 95 % intervals, measured domain, held-out error, and what the
    measured points reach of the GPU's datasheet.  What is measured but not fitted yet is fitted on the way.  With
    --platform as the engine runs them there (no collectives by other ways), and without a database of what ships.

    Example: dooly formulas linear --platform h200
    """
    from dooly.cli.output import print_json, say
    from dooly.database import place_of
    from dooly.errors import FitError
    from dooly.files import write_text
    from dooly.fit.chart import formula_chart
    from dooly.fit.format import latex as latex_of
    from dooly.fit.format import sympy_text
    from dooly.fit.store import to_json
    from dooly.fit.target import subject_of
    from dooly.workspace.store import look_into, open_database

    if sum((sympy, latex, as_json)) > 1:
        raise FitError("--sympy, --latex and --json are three ways to print one thing; choose one")
    with open_database(db) if platform is None else look_into(db) as database:
        found = _all(database, operation or "", platform, alone=plot is not None)
    if not found:
        which = f"formula of {operation!r}" if operation else "formulas"
        which += f" on {platform}" if platform else ""
        raise FitError(f"{place_of(db)}: no {which}; run `dooly profile` and `dooly fit` first")
    if plot is not None:
        one = found[0]
        if one.operation is None:
            raise FitError(f"--plot shows an operation; {operation} is a part of host time")
        sheet = _sheet(one.platform)
        write_text(plot, formula_chart(one.formula, subject_of(one.operation), one.observations, sheet))
        say(f"written: {plot}")
    if as_json:
        print_json([{"environment": each.environment, **to_json(each.formula)} for each in found])
        return
    for each in found:
        if sympy or latex:
            show(latex_of(each.formula) if latex else sympy_text(each.formula))
        else:
            show(_line(each))


def _line(found: _Found) -> str:
    from dooly.fit import reached
    from dooly.fit.format import line
    from dooly.fit.target import subject_of

    equation = line(found.formula)
    if found.operation is None:
        return equation
    there = reached(subject_of(found.operation), found.observations)
    return f"{equation} | {there.beside(_sheet(found.platform))}"


def _sheet(platform: str) -> "PlatformSpec | None":
    """The data sheet of a GPU that has one."""
    from dooly.hardware.gpus import PLATFORMS

    spec = PLATFORMS.get(platform)
    return spec if spec is not None and spec.tflops else None


def _all(database: "PointSource", wanted: str, platform: str | None, *, alone: bool) -> list[_Found]:
    """Every formula of the operations asked for; where only points are stored, fitted now but not kept.

    Raises:
        FitError: there are several, and `alone` asks for one.
    """
    from dooly.cli.output import progress_bar, say
    from dooly.database import Status
    from dooly.errors import FitError
    from dooly.fit.store import from_json
    from dooly.hardware.environment import home_of, stored_machine
    from dooly.host import is_host_part
    from dooly.workspace.formulas import fit_stored, observed

    environments = {each.key: each for each in database.environments()}
    stored = {each.signature: each for each in database.operations()}
    names = {signature: f"{each.target}_{signature[:8]}" for signature, each in stored.items()}
    rows = [
        row
        for row in database.summary()
        if row.status is Status.OK and any(name.startswith(wanted) for name in (names[row.signature], row.signature))
    ]
    if platform is not None:
        machine = stored_machine(database, platform)
        homes = {signature: home_of(stored[signature], machine).key for signature in {row.signature for row in rows}}
        rows = [row for row in rows if row.environment == homes[row.signature]]
    else:
        rows = [row for row in rows if not environments[row.environment].source]
    if alone and len(rows) > 1:
        matching = ", ".join(list(dict.fromkeys(names[row.signature] for row in rows))[:3])
        raise FitError(f"--plot shows one operation, {len(rows)} match; give the whole name of one, such as {matching}")
    found: list[_Found] = []
    with progress_bar("operations") as progress:
        for row in progress.track(rows, description="formulas"):
            environment, each = environments[row.environment], stored[row.signature]
            content = database.formula(row.signature, environment)
            try:
                formula = fit_stored(database, each, environment) if content is None else from_json(content)
            except FitError as error:
                say(f"not fitted: {error}")
                continue
            host = is_host_part(row.signature)
            found.append(
                _Found(
                    environment.key,
                    str(environment.get("platform")),
                    None if host else each.parsed(),
                    observed(database, row.signature, environment),
                    formula,
                )
            )
    return found
