"""Attention backends, one row each: what of a backend decides how its time is measured, fitted and added up."""

from collections.abc import Mapping
from dataclasses import dataclass

from dooly.errors import CaptureError
from dooly.hardware.gpus import PLATFORMS

__all__ = ["BACKENDS", "Backend", "backend_of", "check_backend", "offered"]


@dataclass(frozen=True)
class Backend:
    """An attention backend.

    Attributes:
        name: as the engine spells it.
        cuda: whether it is one of GPUs; else of processors.
        offered: whether it may be asked for; others are the engine's choice for some layers.
        library: package that its kernels are from, named in the environment of its points; "" for the engine's own.
        block_size: tokens of the only KV-cache block that it has kernels for; None for any.
        whole_prompts: whether it takes whole prompts only, none in chunks.
        tiles_planned_once: whether one plan of a kernel's tiles may serve all layers of a step that are alike.
        planned_late: whether it reads a batch's lengths back from the device before it plans it: a copy that waits for
            all that is queued, so for the end of the step before.  The device starts with the next graph at once then.
        calls_twice: whether it is called twice a layer where requests decode beside prompts.
        split_pairs: most pairs of a request and a KV head of which kernels that decode split the context; None for any.
    """

    name: str
    cuda: bool = True
    offered: bool = False
    library: str = ""
    block_size: int | None = None
    whole_prompts: bool = False
    tiles_planned_once: bool = False
    planned_late: bool = False
    calls_twice: bool = False
    split_pairs: int | None = None


BACKENDS: Mapping[str, Backend] = {
    row.name: row
    for row in (
        Backend("CPU_ATTN", cuda=False, offered=True),
        Backend("CPU_MLA", cuda=False, offered=True, block_size=16, whole_prompts=True),
        Backend("AMX_MLA", cuda=False, offered=True),
        Backend("FLASH_ATTN", offered=True, tiles_planned_once=True),
        # vLLM 0.26.0 asks for `seq_lens_cpu` before it plans (0.32.0 takes an upper bound that the host knows; no GPU
        # was measured under it).  flashinfer 0.6 has two blocks on each of 132 multiprocessors; one pair more fills.
        Backend("FLASHINFER", offered=True, library="flashinfer", planned_late=True, calls_twice=True, split_pairs=263),
        # vLLM 0.26: the engine rounds the requests to a captured size, which they are for 2, 4, 8 and 16 heads.
        Backend("TRITON_ATTN", offered=True, library="triton", split_pairs=128),
        Backend("TRITON_MLA", library="triton"),
        Backend("FLASHMLA", block_size=64),
    )
}


def backend_of(name: object) -> Backend:
    """The row of a backend; one without any peculiarity where there is none."""
    return BACKENDS.get(str(name)) or Backend(str(name))


def offered(platform: str) -> tuple[str, ...]:
    """Backends that may be asked for on a platform; the engine takes one that suits the model's layers."""
    is_cuda = PLATFORMS[platform].is_cuda
    return tuple(row.name for row in BACKENDS.values() if row.offered and row.cuda == is_cuda)


def check_backend(platform: str, backend: str | None) -> str | None:
    """Name of the attention backend as the engine spells it; None leaves the choice to the engine.

    Raises:
        CaptureError: the platform or the backend is unknown, or the platform does not have that backend.
    """
    if platform not in PLATFORMS:
        raise CaptureError(f"unknown platform {platform!r}; known: {', '.join(PLATFORMS)}")
    if backend is None:
        return None
    everywhere = sorted(row.name for row in BACKENDS.values() if row.offered)
    name = backend.upper()
    if name not in everywhere:
        raise CaptureError(f"unknown attention backend {backend!r}; known: {', '.join(everywhere)}")
    if name not in offered(platform):
        raise CaptureError(
            f"attention backend {name} is not on platform {platform}; there: {', '.join(offered(platform))}"
        )
    return name
