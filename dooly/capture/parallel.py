"""How a model is spread over devices: sizes that are symbols of the graph where they are more than one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import sympy

from dooly.errors import CaptureError
from dooly.ir.expr import Expr, symbol

__all__ = ["Parallel", "experts_of"]

_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
"""Fields that say how many experts a mixture has."""

_VOCAB_PADDING = 64
_SPLIT = (
    "num_attention_heads",
    "intermediate_size",
    "num_heads",
    "linear_num_key_heads",
    "linear_num_value_heads",
)
"""Fields of what is split over the ranks."""


@dataclass(frozen=True)
class Parallel:
    """The parallel configuration of an engine.

    Attributes:
        tp: tensor-parallel ranks, over which each layer is split.
        dp: data-parallel ranks: each has requests of its own, and they share the experts of a mixture.
        expert: whether a rank holds whole experts, or a slice of each.
        pp: pipeline stages, over which the layers are spread.
    """

    tp: int = 1
    dp: int = 1
    expert: bool = False
    pp: int = 1

    @property
    def ranks(self) -> int:
        """Devices in all."""
        return self.tp * self.dp * self.pp

    @property
    def symbols(self) -> dict[str, int]:
        """Configuration symbols that this adds, with their values: those of sizes above one."""
        return {name: size for name, size in (("DP", self.dp), ("PP", self.pp), ("TP", self.tp)) if size > 1}

    def group(self, name: str) -> tuple[int, Expr]:
        """Ranks of the engine's group ``tp``, ``dp`` or ``ep`` as a number and as an expression."""
        sizes = {"tp": ("TP",), "dp": ("DP",), "ep": ("DP", "TP")}
        known = self.symbols
        among = [size for size in sizes.get(name, ()) if size in known]
        return prod(known[size] for size in among), prod((symbol(size) for size in among), start=sympy.Integer(1))

    def check(self, config: Mapping[str, Any], place: str) -> None:
        """Check that a model can be spread like this.

        Raises:
            CaptureError: a size that is split does not divide; KV heads may also be fewer than ranks (replicated).
        """
        for name, size in (("tensor", self.tp), ("data", self.dp), ("pipeline", self.pp)):
            if isinstance(size, bool) or size < 1:
                raise CaptureError(f"{place}: {name} parallel size {size} is not a positive integer")
        layers = _size(config, "num_hidden_layers", place)
        if self.pp > layers:
            raise CaptureError(f"{place}: {self.pp} pipeline stages for {layers} layers")
        self._check_experts(config, place)
        split: list[str] = [*_SPLIT]
        if not self.expert or config.get("n_shared_experts"):
            split.append("moe_intermediate_size")
        sizes = {
            name: _size(config, name, place) for name in split if isinstance(config.get(name), int) and config[name]
        }
        if self.pp > 1:  # what stages hand on is sent in as many parts
            sizes["hidden_size"] = _size(config, "hidden_size", place)
        sizes["padded vocab_size"] = -(-_size(config, "vocab_size", place) // _VOCAB_PADDING) * _VOCAB_PADDING
        for name, size in sizes.items():
            if size % self.tp:
                raise CaptureError(f"{place}: tensor parallel size {self.tp} does not divide {name} {size}")
        kv_heads = _size(config, "num_key_value_heads", place) if config.get("num_key_value_heads") else self.tp
        if kv_heads % self.tp and self.tp % kv_heads:
            raise CaptureError(
                f"{place}: tensor parallel size {self.tp} neither divides num_key_value_heads {kv_heads} "
                "nor is a multiple of it"
            )

    def _check_experts(self, config: Mapping[str, Any], place: str) -> None:
        field = experts_of(config)
        if field is None:
            if self.expert:
                raise CaptureError(f"{place}: expert parallelism needs a mixture of experts; this model has none")
            if self.dp > 1:
                raise CaptureError(
                    f"{place}: data-parallel ranks of a model without experts share nothing; capture one of them"
                )
            return
        ranks = self.tp * self.dp  # each pipeline stage has experts of its own
        if self.expert and ranks > (experts := _size(config, field, place)):
            raise CaptureError(f"{place}: {ranks} expert-parallel ranks are more than the {experts} experts")
        own = "moe_intermediate_size" if config.get("moe_intermediate_size") else "intermediate_size"
        width = _size(config, own, place) if isinstance(config.get(own), int) else None
        if not self.expert and width is not None and width % ranks:
            raise CaptureError(
                f"{place}: {ranks} ranks do not divide the {width} features of an expert; "
                "with expert parallelism each rank holds whole experts"
            )


def _size(config: Mapping[str, Any], name: str, place: str) -> int:
    """A field that ranks or stages share.

    Raises:
        CaptureError: it is missing or no positive integer.
    """
    value = config.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CaptureError(f"{place}: {name} is {value!r}, expected a positive integer to spread over ranks")
    return value


def experts_of(config: Mapping[str, Any]) -> str | None:
    """The field that counts the experts of a mixture; None for any other model."""
    return next((name for name in _EXPERTS if config.get(name)), None)
