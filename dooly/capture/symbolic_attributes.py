"""Attributes of live modules, replaced for the length of a trace."""

# pyright: reportPrivateUsage=false
# PyTorch and vLLM have no public way to do this.
from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, MutableMapping
from contextlib import contextmanager
from typing import Any

import torch

from dooly.capture.configint import ConfigInt

__all__ = ["kept_tensors", "rebound", "replace_numbers"]

_PACKAGES = ("vllm.", "transformers.")
_TENSORS = ("_parameters", "_buffers", "_modules")


@contextmanager
def rebound(roots: Iterable[object], convert: Callable[[ConfigInt], Any]) -> Generator[None]:
    """Convert every ``ConfigInt`` attribute reachable from ``roots``; all are put back on leaving.

    Looks into modules, objects of the engine and of its configuration library, lists, tuples and dictionaries.
    """
    undo: list[tuple[MutableMapping[str, Any], str, Any]] = []
    try:
        for fields in _fields(roots):
            for name, value in list(fields.items()):
                converted = _converted(value, ConfigInt, convert)
                if converted is not value:
                    undo.append((fields, name, value))
                    fields[name] = converted
        yield
    finally:
        for fields, name, value in undo:
            fields[name] = value


def replace_numbers(roots: Iterable[object], of: type, convert: Callable[[Any], Any]) -> None:
    """Convert every attribute of that type reachable from ``roots``, as ``rebound`` does, for good."""
    for fields in _fields(roots):
        for name, value in list(fields.items()):
            converted = _converted(value, of, convert)
            if converted is not value:
                fields[name] = converted


@contextmanager
def kept_tensors(model: torch.nn.Module) -> Generator[None]:
    """Put every module's parameters and buffers back on leaving.

    ``functional_call`` does so too, but not for a tensor whose module is registered twice.
    """
    held: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (fields, dict(fields)) for each in model.modules() for fields in (each._parameters, each._buffers)
    ]
    try:
        yield
    finally:
        for fields, before in held:
            fields.update(before)


def _fields(roots: Iterable[object]) -> list[MutableMapping[str, Any]]:
    """Attribute dictionaries of all objects reachable, each once."""
    found: dict[int, MutableMapping[str, Any]] = {}
    pending = list(roots)
    while pending:
        item = pending.pop()
        if isinstance(item, list | tuple):
            pending.extend(item)
            continue
        if isinstance(item, dict):
            pending.extend(item.values())
            continue
        fields = getattr(item, "__dict__", None)
        if not isinstance(fields, dict) or id(fields) in found or isinstance(item, type):
            continue
        if isinstance(item, torch.nn.Module) or type(item).__module__.startswith(_PACKAGES):
            found[id(fields)] = fields
            pending.extend(value for name, value in fields.items() if name not in _TENSORS)
            if isinstance(item, torch.nn.Module):
                pending.extend(item.children())
    return list(found.values())


def _converted(value: Any, of: type, convert: Callable[[Any], Any]) -> Any:
    if isinstance(value, of):
        return convert(value)
    if type(value) in (list, tuple):
        items = [_converted(item, of, convert) for item in value]
        return type(value)(items) if any(new is not old for new, old in zip(items, value)) else value
    if type(value) is dict:
        entries = {key: _converted(item, of, convert) for key, item in value.items()}
        return entries if any(entries[key] is not item for key, item in value.items()) else value
    return value
