"""Attention backends: which of them a platform has, and how the engine spells them."""

from dooly.errors import CaptureError
from dooly.hardware.gpus import PLATFORMS

__all__ = ["check_backend"]


def check_backend(platform: str, backend: str | None) -> str | None:
    """Name of the attention backend as the engine spells it; None leaves the choice to the engine.

    Raises:
        CaptureError: the platform or the backend is unknown, or the platform does not have that backend.
    """
    if platform not in PLATFORMS:
        raise CaptureError(f"unknown platform {platform!r}; known: {', '.join(PLATFORMS)}")
    if backend is None:
        return None
    everywhere = sorted({name for spec in PLATFORMS.values() for name in spec.backends})
    name = backend.upper()
    if name not in everywhere:
        raise CaptureError(f"unknown attention backend {backend!r}; known: {', '.join(everywhere)}")
    if name not in PLATFORMS[platform].backends:
        raise CaptureError(
            f"attention backend {name} is not on platform {platform}; there: {', '.join(PLATFORMS[platform].backends)}"
        )
    return name
