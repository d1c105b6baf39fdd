"""Model configurations: where they are found, which of their fields are symbols, and what makes them invalid.

Needs neither torch nor vLLM, so that a mistake is reported before anything heavy is imported.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from dooly.capture.architectures import known_architectures
from dooly.errors import CaptureError
from dooly.files import read_text
from dooly.ir import Expr, evaluate, format_expr, parse_expr, symbols_of

__all__ = [
    "FIELDS",
    "STRETCH",
    "TIED",
    "Field",
    "bundled_name",
    "config_values",
    "fields_of",
    "list_models",
    "note_of",
    "resolve_model",
    "stretch",
]

FIELDS: Mapping[str, str] = {
    "hidden_size": "H",
    "num_attention_heads": "Nq",
    "num_key_value_heads": "Nkv",
    "head_dim": "D",
    "intermediate_size": "I",
    "vocab_size": "V",
    "num_local_experts": "E",
    "num_experts": "E",
    "n_routed_experts": "E",
    "num_experts_per_tok": "K",
    "n_group": "G",
    "topk_group": "Kg",
    "moe_intermediate_size": "Im",
    "shared_expert_intermediate_size": "Is",
    "n_shared_experts": "Es",
    "num_hidden_layers": "Nl",
    "max_position_embeddings": "Np",
    "sliding_window": "W",
    "kv_lora_rank": "Rkv",
    "q_lora_rank": "Rq",
    "qk_nope_head_dim": "Dn",
    "qk_rope_head_dim": "Dr",
    "v_head_dim": "Dv",
    "num_heads": "Nm",
    "n_groups": "G",
    "state_size": "Ds",
    "mamba_d_state": "Ds",
    "conv_kernel": "C",
    "mamba_d_conv": "C",
    "linear_conv_kernel_dim": "C",
    "chunk_size": "Q",
    "mamba_expand": "X",
    "mamba_dt_rank": "Rt",
    "linear_num_key_heads": "Nk",
    "linear_num_value_heads": "Nv",
    "linear_key_head_dim": "Dk",
    "linear_value_head_dim": "Dv",
}
"""Short names of widespread fields; any other integer field is a symbol under its own name."""

STRETCH: Mapping[str, str] = {"original_max_position_embeddings": "No", "factor": "Fp"}
"""Fields of a YaRN rope configuration: trained positions, and the whole factor by which they are stretched."""

TIED: Mapping[str, Expr] = {"expand": parse_expr("D*Nm/H")}
"""Integer fields that other fields decide."""

_REQUIRED = ("hidden_size", "num_hidden_layers", "vocab_size")


def list_models() -> tuple[str, ...]:
    """Names of the bundled models, sorted."""
    return tuple(sorted(path.parent.name for path in _bundled().glob("*/config.json")))


def note_of(model: str | Path) -> str | None:
    """Say what sets a bundled model apart from the checkpoint published under its name; None if nothing does."""
    note = _locate(model).with_name("note.txt")
    return note.read_text(encoding="utf-8").strip() if note.is_relative_to(_bundled()) and note.is_file() else None


def _bundled() -> Path:
    return Path(__file__).resolve().parent.parent / "models"


def resolve_model(model: str | Path) -> tuple[str, dict[str, Any]]:
    """Name and checked configuration of a bundled model, a folder with a config.json, or such a file.

    ``head_dim`` and ``num_key_value_heads`` are filled in where the file leaves them to their defaults, and how weights
    are quantized where a ``hf_quant_config.json`` beside it says so.

    Raises:
        CaptureError: nothing is there, or what is there is not the configuration of a supported model.
    """
    path = _locate(model)
    config = _with_quantization(_read(path), path.with_name("hf_quant_config.json"))
    _check_architecture(config, path)
    if any(name not in config for name in _REQUIRED):
        from dooly.capture.canonical import canonical  # the class may know them by other names

        config = canonical(config)
    name = path.parent.name if path.name == "config.json" else path.stem
    return name, _check_fields(config, path)


def _locate(model: str | Path) -> Path:
    path = Path(model)
    try:
        if path.is_dir():
            path = path / "config.json"
            if not path.is_file():
                raise CaptureError(f"{path}: no config.json in this folder")
            return path.resolve()
        if path.is_file():
            return path.resolve()
    except (OSError, ValueError) as error:
        if isinstance(error, CaptureError):
            raise
        raise CaptureError(f"{str(path)[:80]!r}: not a path: {error}") from None
    if (name := bundled_name(str(model))) is not None:
        return _bundled() / name / "config.json"
    if path.suffix == ".json" or len(path.parts) > 1:
        raise CaptureError(f"{path}: no such file or folder")
    names = list_models()
    raise CaptureError(
        f"{str(model)!r}: neither a bundled model nor a file{_meant(str(model), names)}; bundled: {', '.join(names)}"
    )


_SAME = frozenset(("base", "chat", "hf", "instruct", "it", "v0.1"))
"""Last parts of names of checkpoints that have the configuration of the model without them."""


def bundled_name(text: str) -> str | None:
    """The bundled model that a name means, however it is written; None if it means none.

    Capitals, underscores, the organisation before the name, and endings such as ``-Instruct`` do not matter.

    >>> bundled_name("meta-llama/Meta-Llama-3.1-8B-Instruct"), bundled_name("llama-3-8b")
    ('llama-3.1-8b', None)
    """
    known = list_models()
    if text in known:
        return text
    organisation, _, last = text.lower().replace("_", "-").rpartition("/")
    name = last.removeprefix("meta-")
    while name not in known and (cut := name.rpartition("-"))[2] in _SAME:
        name = cut[0]
    return name if name in known and "/" not in organisation else None


def _meant(word: str, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(word, known, n=3)
    return f", did you mean {' or '.join(close)}?" if close else ""


def _read(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise CaptureError(
            f"{path}: line {error.lineno}, column {error.colno}: not valid JSON: {error.msg.lower()}"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise CaptureError(f"{path}: cannot be read as JSON text: {error}") from None
    if not isinstance(config, dict):
        raise CaptureError(f"{path}: expected a JSON object, found {type(config).__name__}")
    return cast("dict[str, Any]", config)


def _with_quantization(config: dict[str, Any], beside: Path) -> dict[str, Any]:
    """The configuration with how its weights are quantized, which older ModelOpt says in a file of its own."""
    if config.get("quantization_config") is not None or not beside.is_file():
        return config
    return {**config, "quantization_config": _read(beside)}


def _check_architecture(config: Mapping[str, Any], path: Path) -> None:
    """A text-generation model that the engine knows; where none is named, the engine goes by ``model_type``."""
    found = config.get("architectures")
    if found is None and "model_type" in config:
        return
    if not isinstance(found, list) or len(cast("list[Any]", found)) != 1 or not isinstance(found[0], str):
        raise CaptureError(f"{path}: architectures is {found!r}, expected a list of one name")
    known = known_architectures()
    if known and found[0] not in known:
        raise CaptureError(
            f"{path}: unknown architecture {found[0]!r}{_meant(found[0], known)}; "
            f"the engine has {len(known)} for text generation"
        )


_SIZES = (*_REQUIRED, "intermediate_size", "num_attention_heads", "max_position_embeddings")
"""Fields that are positive wherever a file gives a number; zero means "none" for most others."""


_MOST, _MOST_LAYERS = 2**31 - 1, 1024
"""Largest sizes, and most layers: each of them is built."""


def _check_fields(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    for name in (*_REQUIRED, "model_type"):
        if name not in config:
            raise CaptureError(f"{path}: {name} is missing")
    if not isinstance(config["model_type"], str) or not config["model_type"]:
        raise CaptureError(f"{path}: model_type is {str(config['model_type'])[:80]!r}, expected a name")
    for name in _SIZES:
        value = config.get(name, 1)
        if name in _REQUIRED or not isinstance(value, list | None):
            _check_positive(name, value, path)
    for name in _ROPE:
        if not isinstance(config.get(name) or {}, dict):
            raise CaptureError(f"{path}: {name} is {str(config[name])[:80]!r}, expected an object")
    values = config_values(config)
    for name, e in TIED.items():
        if name in config and symbols_of(e) <= values.keys() and evaluate(e, values) != config[name]:
            raise CaptureError(f"{path}: {name} is {config[name]}, but other fields say {format_expr(e)}")
    if values.get("K", 0) > values.get("E", 0) > 0:
        raise CaptureError(f"{path}: num_experts_per_tok {values['K']} is more than the {values['E']} experts")
    return {**config, **(_heads(config, path) if isinstance(config.get("num_attention_heads"), int) else {})}


def _check_positive(name: str, value: object, path: Path) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CaptureError(f"{path}: {name} is {value!r}, expected a positive integer")
    most = _MOST_LAYERS if name == "num_hidden_layers" else _MOST
    if value > most:
        raise CaptureError(f"{path}: {name} is {value}, expected at most {most:,d}")


def _heads(config: Mapping[str, Any], path: Path) -> dict[str, int]:
    """Fields of attention that the file leaves to their defaults; latent attention has head sizes of its own."""
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    kv_heads = config.get("num_key_value_heads") or heads
    if isinstance(kv_heads, int) and heads % kv_heads:
        raise CaptureError(f"{path}: num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}")
    head_dim = config.get("head_dim")
    if head_dim is None and "kv_lora_rank" not in config:
        if hidden % heads:
            raise CaptureError(
                f"{path}: hidden_size {hidden} is not divisible by num_attention_heads {heads} and head_dim is absent"
            )
        head_dim = hidden // heads
    return {"num_key_value_heads": kv_heads, **({} if head_dim is None else {"head_dim": head_dim})}


@dataclass(frozen=True)
class Field:
    """An integer of a configuration: where it stands, and the symbol that it becomes."""

    place: tuple[str | int, ...]
    symbol: str
    value: int


def fields_of(config: Mapping[str, Any]) -> tuple[Field, ...]:
    """All positive integers of a configuration, those of lists and of dictionaries in it included.

    Short names go to the fields of ``FIELDS``.  Every other field has a symbol under its own name, and one more for
    each further value that it has somewhere.  Names of tokens and the settings of rotary embeddings and of quantization
    decide no size, but for those of ``STRETCH``.

    >>> [field.symbol for field in fields_of({"hidden_size": 64, "widths": [32, 48, 32]})]
    ['H', 'widths', 'widths_2', 'widths']
    """
    order = list(FIELDS)
    names = sorted(config, key=lambda name: order.index(name) if name in FIELDS else len(order))
    taken: dict[str, int] = {}
    found = [
        Field(place, _symbol(place, value, taken), value)
        for name in names
        if name not in _NO_SIZES
        for place, value in _integers(config[name], (name,))
    ]
    rope = next((name for name in _ROPE if config.get(name)), "")
    return (*found, *(Field((rope, name), STRETCH[name], value) for name, value in stretch(config).items()))


_ROPE = ("rope_scaling", "rope_parameters")
_NO_SIZES = frozenset((*_ROPE, "quantization_config", "id2label", "label2id"))


def _integers(value: object, place: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], int]]:
    if isinstance(value, int) and not isinstance(value, bool):
        if value > 0 and not str(place[-1]).endswith("_token_id"):
            yield place, value
    elif isinstance(value, dict):
        for name, item in cast("dict[str, Any]", value).items():
            yield from _integers(item, (*place, name))
    elif isinstance(value, list):
        for index, item in enumerate(cast("list[Any]", value)):
            yield from _integers(item, (*place, index))


def _symbol(place: tuple[str | int, ...], value: int, taken: dict[str, int]) -> str:
    """A name that no other value has: the short one where there is one, else the field's own, numbered if need be."""
    name = next(part for part in reversed(place) if isinstance(part, str))
    own = re.sub(r"\W", "_", name)
    short = (FIELDS[name],) if name in FIELDS else ()
    found = next(
        each
        for each in (*short, own, *(f"{own}_{number}" for number in range(2, len(taken) + 3)))
        if taken.get(each, value) == value
    )
    taken[found] = value
    return found


def config_values(config: Mapping[str, Any]) -> dict[str, int]:
    """Values of the symbols of a configuration."""
    return {field.symbol: field.value for field in fields_of(config)}


def stretch(config: Mapping[str, Any]) -> dict[str, int]:
    """The fields of ``STRETCH`` where positions are stretched by a whole factor, else nothing."""
    rope = cast("dict[str, Any]", config.get("rope_scaling") or config.get("rope_parameters") or {})
    if rope.get("rope_type", rope.get("type")) != "yarn":
        return {}
    values = {name: rope.get(name) for name in STRETCH}
    return {name: int(value) for name, value in values.items() if isinstance(value, int | float) and value % 1 == 0}
