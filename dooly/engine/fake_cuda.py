"""An NVIDIA platform for the engine on a machine that has none: it chooses its CUDA code, and nothing is launched."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import torch
from torch.overrides import TorchFunctionMode

from dooly.hardware.gpus import PlatformSpec

__all__ = ["OnMeta", "stand_in_for"]

_EXTENSIONS = (
    "vllm._C",
    "vllm._C_stable_libtorch",
    "vllm._moe_C",
    "vllm._moe_C_stable_libtorch",
    "vllm.cumem_allocator",
    "vllm.vllm_flash_attn._vllm_fa2_C",
    "vllm.vllm_flash_attn._vllm_fa3_C",
)

_PACKAGES = ("cutlass", "flashinfer", "quack", "tilelang", "triton_kernels", "vllm.third_party.deep_gemm")
"""Packages that the CUDA build needs or brings along."""

_SCHEMAS = Path(__file__).with_name("cuda_operations.txt")
"""Compiled operations that the engine's Python code calls, as its CUDA build registers them."""

_REFUSES = "FlashInferFP8ScaledMMLinearKernel"
"""Kernel that checks that its operands are on a GPU; the engine's next choice does the same work."""

_QUESTIONS = {
    "cutlass_group_gemm_supported": 90,
    "cutlass_scaled_mm_supports_block_fp8": 90,
    "cutlass_scaled_mm_supports_fp4": 100,
    "cutlass_scaled_mm_supports_fp8": 90,
    "mxfp4_experts_quant_supported": 100,
}
"""Questions of the engine to its CUDA build, with the least compute capability that has it."""

_libraries: list[torch.library.Library] = []


def stand_in_for(spec: PlatformSpec) -> None:
    """Make the engine believe that ``spec`` is there, for the rest of the process; before it is imported."""
    os.environ["VLLM_USE_FLASHINFER_SAMPLER"] = "0"  # only random sampling would use it
    os.environ["VLLM_HAS_FLASHINFER_CUBIN"] = "1"  # what this machine can compile decides nothing
    os.environ.setdefault("VLLM_DISABLED_KERNELS", _REFUSES)
    os.environ["VLLM_DISABLE_SHARED_EXPERTS_STREAM"] = "1"  # a stream cannot be stood in for; the work is the same
    for name in _EXTENSIONS:
        sys.modules.setdefault(name, ModuleType(name))
    sys.meta_path.append(_NamesOnly(tuple(name for name in _PACKAGES if find_spec(name) is None)))
    cast(Any, torch.cuda).Stream = cast(Any, torch.cuda).Event = _Anything
    cast(Any, torch.cuda).current_stream = _Anything
    platforms: Any = importlib.import_module("vllm.platforms")
    cuda: Any = importlib.import_module("vllm.platforms.cuda")
    interface: Any = importlib.import_module("vllm.platforms.interface")
    platform = _platform(spec, cuda.NonNvmlCudaPlatform, interface.DeviceCapability)
    cuda.CudaPlatform = platform
    platforms._current_platform = platform()
    _stand_in_for_triton()
    _declare_kernels()
    quiet = logging.getLogger("vllm.model_executor.layers.fused_moe.experts")  # without Triton its kernels complain
    quiet.setLevel(logging.CRITICAL)


class OnMeta(TorchFunctionMode):
    """Whatever is put on a GPU in the block is put on the meta device."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.Tensor.cuda:
            return args[0].to("meta")
        given = {name: _elsewhere(value) for name, value in (kwargs or {}).items()}
        if func is torch.Tensor.to:
            args = tuple(map(_elsewhere, args))
        return func(*args, **given)


def _elsewhere(value: Any) -> Any:
    is_device = isinstance(value, torch.device) or (isinstance(value, str) and value.partition(":")[0] == "cuda")
    return "meta" if is_device and torch.device(value).type == "cuda" else value


class _Anything:
    """A stream or an event, which does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return _nothing


class _NamesOnly(MetaPathFinder, Loader):
    """Packages whose modules have any name one asks for: the engine looks for them to choose its kernels."""

    def __init__(self, packages: tuple[str, ...]) -> None:
        self._packages = packages

    def find_spec(self, fullname: str, *_: object) -> ModuleSpec | None:
        if not any(fullname == package or fullname.startswith(f"{package}.") for package in self._packages):
            return None
        return ModuleSpec(fullname, self, is_package=True)

    def exec_module(self, module: ModuleType) -> None:
        def name(attribute: str) -> type:
            if attribute.startswith("__"):
                raise AttributeError(attribute)
            return _Named(attribute, (), {})

        module.__dict__.update(__getattr__=name, __file__=module.__name__)


class _Named(type):
    """A class with any method one asks for: the engine looks at signatures to tell versions apart.

    Called, it gives back the first tensor that it gets: in a layout of the library's own it has as many bytes.
    """

    def __call__(cls, *args: object, **kwargs: object) -> object:
        return next((value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)), cls)

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
        utilities.triton.set_allocator = _nothing
        utilities.triton.next_power_of_2 = lambda number: 1 << (int(number) - 1).bit_length()


class _TuningEntry:
    """``triton.Config``: what a kernel is compiled with."""

    def __init__(self, kwargs: dict[str, Any], num_stages: int = 1, num_warps: int = 4, **_: Any) -> None:
        self.kwargs, self.num_stages, self.num_warps = kwargs, num_stages, num_warps


def _nothing(*_: Any, **__: Any) -> None:
    """Results are written in place, so there is no shape to compute."""


def _is_at_least(least: int, capability: int) -> bool:
    return capability >= least
