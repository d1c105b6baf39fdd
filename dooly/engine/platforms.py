"""The platform that the engine sees: one per process, real where the hardware is there, else stood in for."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable
from typing import Any

from dooly.errors import CaptureError
from dooly.hardware.gpus import PLATFORMS, platform_of

__all__ = ["activate"]


_active: str | None = None


def activate(platform: str) -> None:
    """Import vLLM as it is on ``platform``.

    The engine decides once per process what it runs on, so a second platform needs a second process.

    Raises:
        CaptureError: vLLM is not installed, was built for something else, or runs as another platform already.
    """
    global _active
    if _active == platform:
        return
    if _active is not None:
        raise CaptureError(f"vLLM is set up for platform {_active} in this process; capture for {platform} in another")
    _prepare_environment()
    logging.getLogger("torch._library.triton").setLevel(logging.ERROR)  # says at each import that Triton is absent
    try:
        platforms: Any = importlib.import_module("vllm.platforms")
    except ImportError as error:
        raise CaptureError(f"vLLM cannot be imported ({error}); install it with: pip install 'dooly[cpu]'") from None
    spec = PLATFORMS[platform]
    if spec.is_cuda and not _has_cuda():
        from dooly.engine.fake_cuda import stand_in_for

        if (known := platforms._current_platform) is not None and not known.is_unspecified():
            raise CaptureError(f"vLLM runs in this process already; capture for {platform} in another process")
        stand_in_for(spec)
    elif spec.is_cuda and platform_of(device := platforms.current_platform.get_device_name()) != platform:
        raise CaptureError(f"the GPU here is {device}, not {platform}: a real GPU is not stood in for")
    elif not spec.is_cuda and not platforms.current_platform.is_cpu():
        raise CaptureError("this vLLM is not built for CPUs; install it with: pip install 'dooly[cpu]'")
    _active = platform
    registry: Any = importlib.import_module("vllm.model_executor.models.registry")
    registry._run_in_subprocess = _run_here  # looking a model class up costs 15 s in the engine's fresh interpreter


def _run_here(function: Callable[[], object]) -> object:
    return function()


def _prepare_environment() -> None:
    """Set what vLLM and the hub client read when imported: no network, no statistics, no second process."""
    for name, value in {
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "TRANSFORMERS_VERBOSITY": "error",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }.items():
        os.environ.setdefault(name, value)


def _has_cuda() -> bool:
    torch: Any = importlib.import_module("torch")
    return bool(torch.cuda.is_available())
