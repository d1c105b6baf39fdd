"""Architectures that the installed engine may run for text generation, read from its source: nothing is imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

__all__ = ["known_architectures", "library_architectures"]

_REGISTRY = "model_executor/models/registry.py"
_TABLES = ("_TEXT_GENERATION_MODELS", "_TRANSFORMERS_SUPPORTED_MODELS")
_AUTOMATIC = ("models/auto/modeling_auto.py", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES")
"""Whatever ``transformers`` has for causal generation is run through the engine's Transformers backend."""


@cache
def known_architectures() -> tuple[str, ...]:
    """Names of the architectures, sorted; none where no engine is installed."""
    registry = _tables("vllm", _REGISTRY)
    names = {key for name in _TABLES for key, _ in _pairs(registry.get(name))}
    return tuple(sorted(names | library_architectures() if registry else names))


@cache
def library_architectures() -> frozenset[str]:
    """Names of the architectures that ``transformers`` has for causal generation."""
    file, table = _AUTOMATIC
    return frozenset(value for _, value in _pairs(_tables("transformers", file).get(table)))


def _tables(package: str, file: str) -> dict[str, ast.expr]:
    """Expressions assigned to the names of a module of a package."""
    found = find_spec(package)
    if found is None or found.origin is None:
        return {}
    path = Path(found.origin).parent / file
    if not path.is_file():
        return {}
    assigned: dict[str, ast.expr] = {}
    for line in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name):
            assigned[line.targets[0].id] = line.value
    return assigned


def _pairs(table: ast.expr | None) -> Iterator[tuple[str, str]]:
    """Keys and values of a dictionary display, or of ``OrderedDict`` of a list of pairs; no value of another kind."""
    if isinstance(table, ast.Dict):
        items = list(zip(table.keys, table.values))
    elif isinstance(table, ast.Call) and table.args and isinstance(table.args[0], ast.List):
        items = [tuple(each.elts) for each in table.args[0].elts if isinstance(each, ast.Tuple) and len(each.elts) == 2]
    else:
        return
    for key, value in items:
        if isinstance(key, ast.Constant):
            yield str(key.value), str(value.value) if isinstance(value, ast.Constant) else ""
