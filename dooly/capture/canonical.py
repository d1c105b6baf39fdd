"""A configuration as its class takes it: one name for each number, and nothing that the class computes.

``transformers`` and the engine are imported when first asked.
"""

# pyright: reportPrivateUsage=false
# vLLM has no public way to do this.
from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from dooly.capture.architectures import library_architectures
from dooly.capture.config import FIELDS

__all__ = ["canonical"]


def canonical(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration under the first name of each number, without what its class computes itself.

    KV heads that only repeat the heads are left out where the class has no such field: the engine would take another
    field for them.
    """
    kind = _configuration_class(config)
    if kind is None:
        return dict(config)
    known = dict(config)
    for name, stored in kind.attribute_map.items():
        if stored in known and (name in known or (name in FIELDS and stored not in FIELDS)):
            known.setdefault(name, known[stored])  # of two the class takes the value of its second name
            del known[stored]
    if not _has(kind, "num_key_value_heads") and known.get("num_key_value_heads") == known.get("num_attention_heads"):
        known.pop("num_key_value_heads", None)
    return {name: value for name, value in known.items() if not _is_computed(kind, name)}


def _configuration_class(config: Mapping[str, Any]) -> Any:
    """Class of a configuration; None where the configuration does not say what it is.

    Where neither the engine nor ``transformers`` has one, nor the architecture, the class came with the checkpoint: one
    that takes the fields as they are is made and registered for it.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        return None
    registry: Any = importlib.import_module("vllm.transformers_utils.config")._CONFIG_REGISTRY
    transformers: Any = importlib.import_module("transformers")
    for table in (registry, transformers.CONFIG_MAPPING):
        if model_type in table and table[model_type].__name__ != _MADE:
            return table[model_type]
    if not library_architectures().isdisjoint(config.get("architectures") or ()):
        return None
    made = type(_MADE, (transformers.PreTrainedConfig,), {**config, "model_type": model_type})
    transformers.AutoConfig.register(model_type, made, exist_ok=True)
    return made


_MADE = "CheckpointConfig"


def _has(kind: Any, name: str) -> bool:
    return hasattr(kind, name) or name in inspect.signature(kind.__init__).parameters


def _is_computed(kind: Any, name: str) -> bool:
    found = inspect.getattr_static(kind, name, None)
    return isinstance(found, property) and found.fset is None
