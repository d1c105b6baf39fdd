"""The recurrence of Mamba-1 in plain PyTorch, for prompts and for decoding: the engine's CPU build has no such kernels.

``h = exp(delta a) h + delta b u`` and ``y = (h c + d u) silu(gate)``, over channels [C] and states [C, N] of a request.
Signatures are those of the engine's kernels; states are updated in place.
"""

from itertools import pairwise
from typing import Any

import torch

__all__ = ["selective_scan", "selective_state_update"]


def selective_scan(
    u: torch.Tensor,
    states: torch.Tensor,
    delta: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor,
    d: torch.Tensor,
    gate: torch.Tensor,
    bias: torch.Tensor,
    *,
    query_start_loc: torch.Tensor,
    cache_indices: torch.Tensor,
    has_initial_state: torch.Tensor,
    **_: Any,
) -> torch.Tensor:
    """Prompts, one after the other.

    Args:
        u, delta, gate: [C, tokens]; a: [C, N]; b, c: [N, tokens]; d, bias: [C]; states: [slots, C, N].
        query_start_loc: first token of each request, and the number of tokens.
        cache_indices, has_initial_state: slot of each request, and whether what it holds is its own.

    Returns y, [C, tokens].
    """
    y = torch.empty_like(u)
    starts = query_start_loc.tolist()
    for request, (first, end) in enumerate(pairwise(starts)):
        slot = int(cache_indices[request])
        if not has_initial_state[request]:
            states[slot] = 0
        for token in range(first, end):
            of_token = [tensor[:, token] for tensor in (u, delta, b, c, gate)]
            y[:, token] = _token(states[slot], *of_token, a, d, bias)
    return y


def selective_state_update(
    states: torch.Tensor,
    u: torch.Tensor,
    delta: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor,
    d: torch.Tensor,
    bias: torch.Tensor,
    *,
    z: torch.Tensor,
    state_batch_indices: torch.Tensor,
    out: torch.Tensor,
    **_: Any,
) -> None:
    """One token of each request: u, delta, z, out: [requests, C]; b, c: [requests, N]."""
    for request, slot in enumerate(state_batch_indices.tolist()):
        of_token = [tensor[request] for tensor in (u, delta, b, c, z)]
        out[request] = _token(states[slot], *of_token, a, d, bias)


def _token(
    state: torch.Tensor,
    u: torch.Tensor,
    delta: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor,
    gate: torch.Tensor,
    a: torch.Tensor,
    d: torch.Tensor,
    bias: torch.Tensor,
) -> torch.Tensor:
    step = torch.nn.functional.softplus(delta + bias)[:, None]
    state.copy_(torch.exp(step * a) * state + step * b * u[:, None])
    return (state @ c + d * u) * torch.nn.functional.silu(gate)
