"""Which layers of a built model are alike, and the model with a few of its layers alone.

Layers are alike when their modules are: the same classes with the same attributes and parameters.  No field of a
configuration is asked, so it does not matter how the engine's code decides what each layer is.
"""

# pyright: reportPrivateUsage=false
# PyTorch has no public way to do this.
from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, cast

import sympy
import torch

from dooly.capture.configint import size_of
from dooly.errors import CaptureError

__all__ = ["keep_layers", "layer_kinds", "layers_path"]


def layers_path(model: torch.nn.Module) -> str:
    """Path of the list of decoder layers: the longest list of modules, the first of those alike.

    Raises:
        CaptureError: the model has no list of modules.
    """
    lists = [(name, module) for name, module in model.named_modules() if isinstance(module, torch.nn.ModuleList)]
    if not lists:
        raise CaptureError(f"{type(model).__name__} has no list of layers")
    return max(lists, key=lambda item: len(item[1]))[0]


def layer_kinds(model: torch.nn.Module) -> tuple[Hashable, ...]:
    """One value for each decoder layer; layers with equal values are built alike."""
    layers = [_facts(layer) for layer in model.get_submodule(layers_path(model)).children()]
    numbers = {key for key in dict.fromkeys(key for facts in layers for key in facts) if _counts(key, layers)}
    return tuple(frozenset((key, value) for key, value in facts.items() if key not in numbers) for facts in layers)


def keep_layers(model: torch.nn.Module, numbers: Sequence[int], start: int = 0) -> None:
    """Leave only the layers of these numbers in the model; they keep their numbers.

    Args:
        start: the first layer of this pipeline stage; places of those before it stay, empty as the engine made them.

    Raises:
        CaptureError: the model has a second list of such layers.
    """
    path = layers_path(model)
    layers: Any = model.get_submodule(path)
    kept = {str(number): layers[number] for number in (*range(start), *numbers)}
    kind = type(layers[numbers[0]])
    layers.__class__ = _Kept
    layers._modules = kept
    other = layers_path(model)
    if other != path and any(type(layer) is kind for layer in model.get_submodule(other).children()):
        raise CaptureError(f"{other}: a second list of layers beside {path}; a model of several is not captured")
    owner: Any = model.get_submodule(path.rpartition(".")[0])
    if getattr(owner, "end_layer", None) is not None:
        owner.end_layer = len(kept)


class _Kept(torch.nn.ModuleList):
    """Layers in order, each found by its place among them and named by its number in the model."""

    def __getitem__(self, place: Any) -> Any:
        found = list(self._modules.values())[place]
        return torch.nn.ModuleList(cast("list[torch.nn.Module]", found)) if isinstance(found, list) else found


_Key = tuple[str, str]
_PLAIN = (bool, int, float, str, type(None), torch.dtype)
_PACKAGES = ("vllm.", "transformers.")
_SHARED = ("Config",)
_DEPTH = 2
"""Objects within a module's objects that are looked into."""


def _facts(layer: torch.nn.Module) -> dict[_Key, Hashable]:
    """Describe a layer: for each module its class, its plain attributes and its parameters."""
    facts: dict[_Key, Hashable] = {}
    for name, module in layer.named_modules():
        facts[name, "class"] = type(module).__qualname__
        for key, value in _attributes(vars(module), _DEPTH):
            facts[name, key] = value
        for key, tensor in module.named_parameters(recurse=False):
            facts[name, key] = (str(tensor.dtype), tuple(tensor.shape))
    return facts


def _attributes(fields: Mapping[str, Any], depth: int) -> Iterable[tuple[str, Hashable]]:
    for name, value in fields.items():
        if isinstance(value, str):
            yield name, re.sub(r"\d+", "*", value)
        elif isinstance(value, int) and not isinstance(value, bool):
            yield name, size_of(value)
        elif isinstance(value, _PLAIN):
            yield name, value
        elif isinstance(value, list | tuple):
            items = cast("list[Any]", value)
            if all(isinstance(item, _PLAIN) for item in items):
                yield name, tuple(map(str, items))
        elif depth and _is_told_apart(value):
            yield from ((f"{name}.{inner}", each) for inner, each in _attributes(vars(value), depth - 1))


def _is_told_apart(value: Any) -> bool:
    """Whether to look into an object: one of the engine's own that is no module, and no settings of the whole model."""
    kind = type(value)
    inside = kind.__module__.startswith(_PACKAGES) and not isinstance(value, torch.nn.Module | type)
    return inside and hasattr(value, "__dict__") and not kind.__name__.endswith(_SHARED)


def _counts(key: _Key, layers: Sequence[dict[_Key, Hashable]]) -> bool:
    """Whether an attribute numbers the layers: it only grows from one that has it to the next."""
    found = [(index, facts[key]) for index, facts in enumerate(layers) if key in facts]
    numbers = [int(value) for _, value in found if isinstance(value, int | sympy.Integer)]
    if len(numbers) < max(2, len(found)):
        return False
    steps = [after - before for before, after in pairwise(numbers)]
    return min(steps) > 0 and (len(numbers) > 2 or steps[0] == found[1][0] - found[0][0])
