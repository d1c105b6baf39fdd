"""Processors with AMX, for which the engine has kernels of its own, and those that can run these without."""

from collections.abc import Generator
from contextlib import contextmanager

import pytest

from dooly.engine.settings import EngineSettings

__all__ = ["latent_settings", "taken_for_amx"]


@contextmanager
def taken_for_amx() -> Generator[None]:
    """Surroundings in which the engine takes this processor for one with AMX: it asks PyTorch.

    Its kernels of latent attention and small products for AMX run, more slowly, on any processor with AVX-512 and
    bfloat16; on others the test is skipped.  The one for experts does not: without AMX the engine takes its other one.
    """
    import torch
    from vllm.model_executor.layers.fused_moe.experts.cpu_moe import X86CPUUnquantizedExperts

    amx = torch.cpu._is_amx_tile_supported()
    if not torch.cpu._is_avx512_bf16_supported():
        pytest.skip("needs a processor with AVX-512 and bfloat16 (avx512_bf16)")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
        if not amx:
            patch.setattr(X86CPUUnquantizedExperts, "_supports_current_device", staticmethod(lambda: False))
        yield


def latent_settings(max_num_seqs: int, tokens: int) -> EngineSettings:
    """What the engine's kernels for latent attention on this processor are written for."""
    import torch

    amx = torch.cpu._is_amx_tile_supported()
    return EngineSettings(
        max_num_seqs, tokens, tokens, block_size=32 if amx else 16, prefix_caching=False, chunked_prefill=amx
    )
