"""Options of a command from a dataclass: one option a field, whose metadata says what it means."""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import wraps
from typing import Annotated, Any, ParamSpec, TypeVar, cast, get_type_hints

import typer

__all__ = ["expanded"]

P = ParamSpec("P")
R = TypeVar("R")


def expanded(**without: tuple[str, ...]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a command of a function with parameters that are dataclasses: their fields become its options.

    A boolean that may be None becomes a pair, ``--x/--no-x``.

    Args:
        without: by parameter, fields that are no options of this command and keep their defaults.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        hints = get_type_hints(function, include_extras=True)
        groups: dict[str, tuple[type, list[str]]] = {}
        parameters: list[inspect.Parameter] = []
        for name, parameter in inspect.signature(function).parameters.items():
            if is_dataclass(hints[name]):
                group = cast(type, hints[name])
                shown = [each for each in fields(group) if each.name not in without.get(name, ())]
                groups[name] = group, [each.name for each in shown]
                parameters += [_option(each, get_type_hints(group)[each.name]) for each in shown]
            else:
                parameters.append(parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY))

        @wraps(function)
        def command(**given: Any) -> R:
            for name, (group, shown) in groups.items():
                given[name] = group(**{each: given.pop(each) for each in shown if each in given})
            return cast(Callable[..., R], function)(**given)

        cast(Any, command).__signature__ = inspect.Signature(parameters)
        command.__annotations__ = {each.name: each.annotation for each in parameters}
        del cast(Any, command).__wrapped__
        return cast(Callable[P, R], command)

    return decorate


def _option(each: "Field[Any]", type_: Any) -> inspect.Parameter:
    flag = f"--{each.name.replace('_', '-')}"
    flags = (f"{flag}/--no-{flag[2:]}",) if type_ == bool | None else ()
    option = typer.Option(*flags, help=each.metadata["help"])
    default = None if each.default is MISSING else each.default
    annotation = Annotated[type_, option]
    return inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
