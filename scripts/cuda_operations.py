"""Write the schemas of the compiled operations of the engine's CUDA build, one a line, to standard output.

    pip download --no-deps vllm==0.32.0
    python scripts/cuda_operations.py vllm-0.32.0-*.whl > dooly/engine/cuda_operations.txt

The extension modules hold the text of each schema that they register.  Which namespace it is registered in stands where
the engine's Python code calls it; what that code never calls is left out.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

_TEXT = re.compile(rb"[\x20-\x7e\n\t]{8,}")
_SCHEMA = re.compile(r"(\w+(?:\.\w+)?)\s*(\([^;{}]*\))\s*->\s*([^;{}]+)")
_CALL = re.compile(r"torch\.ops\.(\w+)\.(\w+)(\.out\b)?")
_MODULE = re.compile(r"_(?:[a-z0-9]+_)*C(?![a-z])")
"""What the name of an extension module and the namespaces of its operations begin with."""


def schemas(wheel: Path) -> Iterator[str]:
    """``namespace::name(arguments) -> results``, sorted."""
    called: set[tuple[str, str]] = set()
    found: dict[tuple[str, str], str] = {}
    with ZipFile(wheel) as archive:
        for file in archive.namelist():
            if file.endswith(".py"):
                for space, name, overload in _CALL.findall(archive.read(file).decode()):
                    called |= {(space, name), (space, name + overload)}
            elif file.endswith(".so") and (module := _MODULE.match(Path(file).name)):
                for text in _TEXT.findall(archive.read(file)):
                    if match := _SCHEMA.fullmatch(text.decode().strip()):
                        name, arguments, results = (" ".join(part.split()) for part in match.groups())
                        found[module[0], name] = f"{name}{arguments} -> {results}"
    for space, name in sorted(called):
        if (module := _MODULE.match(space)) and (module[0], name) in found:
            yield f"{space}::{found[module[0], name]}"


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in schemas(Path(sys.argv[1])))
