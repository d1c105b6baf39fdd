"""An NVIDIA platform for the engine on a machine that has none: it chooses its CUDA code, and nothing is launched."""

from __future__ import annotations

import importlib
import os
import sys
from functools import partial
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from dooly.hardware.gpus import PlatformSpec

__all__ = ["stand_in_for"]

_EXTENSIONS = (
    "vllm._C",
    "vllm._C_stable_libtorch",
    "vllm._moe_C",
    "vllm._moe_C_stable_libtorch",
    "vllm.cumem_allocator",
    "vllm.vllm_flash_attn._vllm_fa2_C",
    "vllm.vllm_flash_attn._vllm_fa3_C",
)

_SCHEMAS = Path(__file__).with_name("cuda_operations.txt")
"""Compiled operations that the engine's Python code calls, as its CUDA build registers them."""

_QUESTIONS = {
    "cutlass_group_gemm_supported": 90,
    "cutlass_scaled_mm_supports_block_fp8": 90,
    "cutlass_scaled_mm_supports_fp4": 100,
    "cutlass_scaled_mm_supports_fp8": 90,
    "mxfp4_experts_quant_supported": 100,
}
"""What the engine asks its CUDA build of a compute capability, with the least that has it."""

_libraries: list[torch.library.Library] = []


def stand_in_for(spec: PlatformSpec) -> None:
    """Make the engine believe that ``spec`` is there, for the rest of the process; before it is imported."""
    os.environ["VLLM_USE_FLASHINFER_SAMPLER"] = "0"  # only random sampling would use it
    os.environ["VLLM_DISABLE_SHARED_EXPERTS_STREAM"] = "1"  # a stream cannot be stood in for; the work is the same
    for name in _EXTENSIONS:
        sys.modules.setdefault(name, ModuleType(name))
    if find_spec(_NamesOnly.package) is None:
        sys.meta_path.append(_NamesOnly())
    platforms: Any = importlib.import_module("vllm.platforms")
    cuda: Any = importlib.import_module("vllm.platforms.cuda")
    interface: Any = importlib.import_module("vllm.platforms.interface")
    platform = _platform(spec, cuda.NonNvmlCudaPlatform, interface.DeviceCapability)
    cuda.CudaPlatform = platform
    platforms._current_platform = platform()
    _stand_in_for_triton()
    _declare_kernels()


class _NamesOnly(MetaPathFinder, Loader):
    """A package whose modules have any name one asks for: the FlashInfer backend imports its kernels at the top."""

    package = "flashinfer"

    def find_spec(self, fullname: str, *_: object) -> ModuleSpec | None:
        if fullname.partition(".")[0] != self.package:
            return None
        return ModuleSpec(fullname, self, is_package=True)

    def exec_module(self, module: ModuleType) -> None:
        def name(attribute: str) -> type:
            if attribute.startswith("__"):
                raise AttributeError(attribute)
            return _Named(attribute, (), {})

        module.__dict__["__getattr__"] = name


class _Named(type):
    """A class with any method one asks for: the engine looks at signatures to tell versions apart."""

    def __getattr__(cls, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return _nothing


def _platform(spec: PlatformSpec, base: Any, capability: Any) -> Any:
    class StandIn(base):
        """Answers for the device; everything else is the engine's own CUDA platform."""

        @classmethod
        def get_device_capability(cls, *_: int, **__: int) -> Any:
            return capability(*spec.capability)

        @classmethod
        def get_device_name(cls, *_: int, **__: int) -> str:
            return spec.device_name

        @classmethod
        def get_device_uuid(cls, device_id: int = 0) -> str:
            return f"GPU-{device_id}"

        @classmethod
        def get_device_total_memory(cls, *_: int, **__: int) -> int:
            return spec.memory_bytes

        @classmethod
        def num_compute_units(cls, *_: int, **__: int) -> int:
            return spec.processors

        @classmethod
        def device_count(cls) -> int:
            return 1 << 10

        @classmethod
        def current_device(cls) -> torch.device:
            return torch.device("meta")

        @classmethod
        def is_pin_memory_available(cls) -> bool:
            return False

        @classmethod
        def log_warnings(cls) -> None:
            pass

        @classmethod
        def set_device(cls, *_: Any, **__: Any) -> None:
            pass

    return StandIn


def _declare_kernels() -> None:
    """Declare each operation; what returns tensors has a rule for their shapes in the engine itself."""
    libraries: dict[str, torch.library.Library] = {}
    for line in _SCHEMAS.read_text(encoding="utf-8").splitlines():
        space, _, schema = line.partition("::")
        name, library = schema.partition("(")[0], libraries.setdefault(space, torch.library.Library(space, "FRAGMENT"))
        library.define(schema)
        if name in _QUESTIONS:
            library.impl(name, partial(_is_at_least, _QUESTIONS[name]), "CompositeExplicitAutograd")
        elif schema.endswith("-> ()"):
            library.impl(name, _nothing, "Meta")
    _libraries.extend(libraries.values())  # declarations live as long as these objects


def _stand_in_for_triton() -> None:
    """Tuning tables of Triton kernels are built on import; the engine's own placeholder has no table entries."""
    utilities: Any = importlib.import_module("vllm.triton_utils")
    if not utilities.HAS_TRITON:
        utilities.triton.Config = _TuningEntry


class _TuningEntry:
    """``triton.Config``: what a kernel is compiled with."""

    def __init__(self, kwargs: dict[str, Any], num_stages: int = 1, num_warps: int = 4, **_: Any) -> None:
        self.kwargs, self.num_stages, self.num_warps = kwargs, num_stages, num_warps


def _nothing(*_: Any, **__: Any) -> None:
    """Results are written in place, so there is no shape to compute."""


def _is_at_least(least: int, capability: int) -> bool:
    return capability >= least
