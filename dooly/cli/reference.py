"""The page of all commands and their options, which `make site` writes: ``python -m dooly.cli.reference -o FILE``."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import typer.main

from dooly.cli.app import app
from dooly.files import write_text

__all__ = ["command_line", "main"]

HEAD = """# Command line

Written by `make site` from the commands. `dooly COMMAND --help` prints the same.

Results go to stdout, talk to stderr. A mistake is one line and exit status 2. `--json` gives one JSON document.
`python -m dooly.passes` prints the annotated IR; `python -m dooly.passes --help` has its options.
"""


def main() -> int:
    """Write the page."""
    parser = argparse.ArgumentParser(description="Write the page of all commands and their options.")
    parser.add_argument("-o", "--output", type=Path, required=True, help="file to write")
    write_text(parser.parse_args().output, command_line())
    return 0


def command_line() -> str:
    """The page: a section for each command, in the order in which they are used."""
    group = cast(Any, typer.main.get_command(app))
    return "\n".join([HEAD, *_sections("dooly", group)])


def _sections(prefix: str, group: Any) -> Iterator[str]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _sections(f"{prefix} {name}", command)
        else:
            yield from _section(f"{prefix} {name}", command)


def _section(name: str, command: Any) -> Iterator[str]:
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option" and not each.hidden]
    yield f"## {name}\n"
    yield _text(command.help) + "\n"
    yield f"    {' '.join([name, *(_metavar(each) for each in arguments), '[OPTIONS]'])}\n"
    rows = [(f"`{_metavar(each)}`", each.help, "") for each in arguments]
    rows += [(f"`{', '.join((*each.opts, *each.secondary_opts))}`", each.help, _default(each)) for each in options]
    if rows:
        yield "| option | meaning | default |\n| --- | --- | --- |"
        yield "\n".join(f"| {' | '.join(_cell(each) for each in row)} |" for row in rows) + "\n"


def _text(text: str) -> str:
    """Paragraphs as they are; an example stands apart as code."""
    paragraphs = [" ".join(each.split()) for each in text.strip().split("\n\n")]
    return "\n\n".join(
        f"Example:\n\n    {each.removeprefix('Example: ')}" if each.startswith("Example: ") else each
        for each in paragraphs
    )


def _metavar(argument: Any) -> str:
    name = str(argument.metavar or argument.name).strip("{}[]").upper()
    return name if argument.required else f"[{name}]"


def _default(option: Any) -> str:
    value = option.default
    if value is None or isinstance(value, bool) or value == [] or callable(value):
        return ""
    return f"`{getattr(value, 'value', value)}`"


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    sys.exit(main())
