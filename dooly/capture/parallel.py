"""How a model is spread over devices: sizes that are symbols of the graph where they are more than one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dooly.errors import CaptureError

__all__ = ["Parallel"]

_VOCAB_PADDING = 64


@dataclass(frozen=True)
class Parallel:
    """The parallel configuration of an engine.

    Attributes:
        tp: tensor-parallel ranks, over which each layer is split.
    """

    tp: int = 1

    @property
    def ranks(self) -> int:
        """Devices in all."""
        return self.tp

    @property
    def symbols(self) -> dict[str, int]:
        """Configuration symbols that this adds, with their values: those of sizes above one."""
        return {name: size for name, size in (("TP", self.tp),) if size > 1}

    def check(self, config: Mapping[str, Any], place: str) -> None:
        """Check that a model can be spread like this.

        Raises:
            CaptureError: a size that is split does not divide; KV heads may also be fewer than ranks (replicated).
        """
        if isinstance(self.tp, bool) or self.tp < 1:
            raise CaptureError(f"{place}: tensor parallel size {self.tp} is not a positive integer")
        sizes = {
            name: int(config[name])
            for name in ("num_attention_heads", "intermediate_size", "moe_intermediate_size")
            if config.get(name)
        }
        sizes["padded vocab_size"] = -(-int(config["vocab_size"]) // _VOCAB_PADDING) * _VOCAB_PADDING
        for name, size in sizes.items():
            if size % self.tp:
                raise CaptureError(f"{place}: tensor parallel size {self.tp} does not divide {name} {size}")
        kv_heads = int(config["num_key_value_heads"])
        if kv_heads % self.tp and self.tp % kv_heads:
            raise CaptureError(
                f"{place}: tensor parallel size {self.tp} neither divides num_key_value_heads {kv_heads} "
                "nor is a multiple of it"
            )
