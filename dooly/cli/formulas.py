"""``dooly formulas``: what was fitted, for people."""

from typing import Annotated

import typer

from dooly.cli.options import DATABASE, AsJson, Db, Platform

__all__ = ["formulas"]


def formulas(
    operation: Annotated[
        str | None, typer.Argument(help="only operations whose name or signature starts so", show_default=False)
    ] = None,
    db: Db = DATABASE,
    platform: Platform = None,
    latex: Annotated[bool, typer.Option("--latex", help="print the symbolic parts as LaTeX")] = False,
    as_json: AsJson = False,
) -> None:
    """Print the fitted formulas.

    One line each: time in us, parameters with units and 95 % intervals, measured domain, held-out error.

    Example: dooly formulas linear
    """
    from dooly.cli.output import print_json
    from dooly.cli.store import open_database
    from dooly.errors import FitError
    from dooly.fit import text
    from dooly.fit.store import from_json

    found: list[dict[str, object]] = []
    with open_database(db) as database:
        for environment in database.environments():
            if platform not in (None, environment.get("platform")):
                continue
            for stored in database.operations():
                content = database.formula(stored.signature, environment)
                if content is not None:
                    found.append({"environment": environment.key, **content})
    wanted = operation or ""
    found = [each for each in found if any(str(each[key]).startswith(wanted) for key in ("name", "signature"))]
    if not found:
        which = f"formula of {operation!r}" if operation else "formulas"
        which += f" on {platform}" if platform else ""
        raise FitError(f"{db}: no {which}; run `dooly fit` first")
    if as_json:
        print_json(found)
        return
    for each in found:
        formula = from_json(each)
        print(text.latex(formula) if latex else text.line(formula))
