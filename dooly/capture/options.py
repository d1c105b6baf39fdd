"""How the engine is started: what decides, beside the configuration, which code it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dooly.capture.parallel import Parallel, experts_of
from dooly.errors import CaptureError
from dooly.hardware.backends import check_backend
from dooly.hardware.gpus import PLATFORMS
from dooly.ir import Graph

__all__ = ["Options", "check_read"]

_QUANTIZATIONS = ("fp8",)
_KV_CACHE_DTYPES = ("fp8",)


@dataclass(frozen=True)
class Options:
    """The engine's options.

    Attributes:
        parallel: how the model is spread over devices.
        platform: whose code is captured.
        backend: attention backend; None leaves the choice to the engine.
        quantization: ``fp8`` quantizes the weights of an unquantized model while they are loaded.
        kv_cache_dtype: element type of the cache; None is that of the model.
        eager: run the model's own code with the engine's custom operations, instead of compiling it without them.
    """

    parallel: Parallel = field(default_factory=Parallel)
    platform: str = "cpu"
    backend: str | None = None
    quantization: str | None = None
    kv_cache_dtype: str | None = None
    eager: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "backend", check_backend(self.platform, self.backend))
        for name, value, known in (
            ("quantization", self.quantization, _QUANTIZATIONS),
            ("KV cache dtype", self.kv_cache_dtype, _KV_CACHE_DTYPES),
        ):
            if value is not None and value not in known:
                raise CaptureError(f"unknown {name} {value!r}; known: {', '.join(known)}")
            if value is not None and not PLATFORMS[self.platform].is_cuda:
                raise CaptureError(f"{name} {value} is not on platform {self.platform}: the engine has it on GPUs")

    def check(self, config: Mapping[str, Any], place: str) -> None:
        """Check that a model can be run like this.

        Raises:
            CaptureError: sizes that do not divide, or weights that are quantized already, or experts' weights.
        """
        self.parallel.check(config, place)
        if self.quantization is not None and config.get("quantization_config"):
            raise CaptureError(
                f"{place}: its weights are quantized as its quantization_config says; no {self.quantization}"
            )
        if self.quantization is not None and experts_of(config):
            raise CaptureError(f"{place}: experts with {self.quantization} weights are not captured yet")


def check_read(graphs: Sequence[Graph], given: Mapping[str, object]) -> None:
    """Check options of capture, by name, that are given though nothing is captured: graphs that are read must agree.

    Raises:
        CaptureError: the graphs say otherwise or nothing, or there is only a table of operations.
    """
    for option, value in given.items():
        if not graphs or any(_said(graph).get(option) != value for graph in graphs):
            raise CaptureError(
                f"--{option.replace('_', '-')} is for models that are captured; IR is read as it is: leave it out"
            )


def _said(graph: Graph) -> dict[str, object]:
    """Return what a graph says of the options that it was captured with, by name."""
    sizes, settings = graph.config_values, dict(graph.settings)
    parallel = {name: sizes.get(name.upper(), 1) for name in ("tp", "dp", "pp")}
    stage = f"{settings.get('stages', 0)}/{parallel['pp']}"
    return {**settings, **parallel, "stage": stage, "eager": settings.get("mode") == "eager"}
