"""An NVIDIA platform for the engine on a machine that has none: it chooses its CUDA code, and nothing is launched."""

from __future__ import annotations

import importlib
import os
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
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

_KERNELS = (
    "silu_and_mul(Tensor! result, Tensor input) -> ()",
    "mul_and_silu(Tensor! result, Tensor input) -> ()",
    "gelu_and_mul(Tensor! result, Tensor input) -> ()",
    "gelu_tanh_and_mul(Tensor! result, Tensor input) -> ()",
    "rms_norm(Tensor! result, Tensor input, Tensor? weight, float epsilon) -> ()",
    "fused_add_rms_norm(Tensor! input, Tensor! residual, Tensor? weight, float epsilon) -> ()",
    "rotary_embedding(Tensor positions, Tensor! query, Tensor!? key, int head_size, Tensor cos_sin_cache, "
    "bool is_neox, int rope_dim_offset=0, bool inverse=False) -> ()",
    "cutlass_scaled_mm(Tensor! out, Tensor a, Tensor b, Tensor a_scales, Tensor b_scales, Tensor? bias) -> ()",
    "static_scaled_fp8_quant(Tensor! result, Tensor input, Tensor scale, int[]? group_shape=None) -> ()",
    "dynamic_scaled_fp8_quant(Tensor! result, Tensor input, Tensor! scale) -> ()",
    "dynamic_per_token_scaled_fp8_quant(Tensor! result, Tensor input, Tensor! scale, Tensor? scale_ub) -> ()",
    "per_token_group_fp8_quant(Tensor input, Tensor! output_q, Tensor! output_s, int group_size, float eps, "
    "float fp8_min, float fp8_max, bool scale_ue8m0, bool dummy_is_scale_transposed, bool dummy_is_tma_aligned) -> ()",
    "vocab_parallel_embedding(Tensor! result, Tensor input_ids, Tensor weight, int org_vocab_start_index, "
    "int org_vocab_end_index, int num_org_vocab_padding, int added_vocab_start_index, int added_vocab_end_index) -> ()",
)
"""Schemas of the compiled operations that models call directly, as the engine's CUDA build declares them."""

_QUESTIONS = ("cutlass_scaled_mm_supports_fp8", "cutlass_scaled_mm_supports_block_fp8", "cutlass_group_gemm_supported")
"""What the engine asks its CUDA build while it starts."""

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
    library = torch.library.Library("_C", "FRAGMENT")
    _libraries.append(library)  # declarations live as long as this object
    for schema in _KERNELS:
        library.define(schema)
        library.impl(schema.partition("(")[0], _nothing, "Meta")
    for name in _QUESTIONS:
        library.define(f"{name}(int capability) -> bool")
        library.impl(name, _on_hopper, "CompositeExplicitAutograd")


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


def _on_hopper(capability: int) -> bool:
    return capability >= 90
