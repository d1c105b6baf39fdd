"""Latent attention: operations, batches, and their results from keys and values expanded in plain torch."""

import itertools
import math

from dooly.database import Point
from dooly.executor.runners import make_runner
from dooly.executor.tensors import random_tensor
from dooly.ir import Operation, TensorType, attributes, parse_expr

HEADS, LATENT, NOPE, ROPE, VALUE = 2, 512, 32, 64, 96
"""The engine's kernels for decoding on a CPU know 512 + 64; those for AMX take multiples of 32."""


def latent(dtype: str, **more: object) -> Operation:
    def tensor(*dims: object) -> TensorType:
        return TensorType(dtype, tuple(parse_expr(str(dim)) for dim in dims))

    facts: dict[str, object] = {
        "backend": "CPU_MLA",
        "heads": HEADS,
        "kv_dtype": dtype,
        "latent": LATENT,
        "nope": NOPE,
        "prefill_backend": "CPU_SDPA_MLA",
        "rope": ROPE,
        "value": VALUE,
    }
    operands = (
        tensor("T", HEADS, NOPE + ROPE),
        tensor("T", LATENT),
        tensor("T", 1, ROPE),
        tensor(HEADS * (NOPE + VALUE), LATENT),
    )
    return Operation("mla_attention", operands, (tensor("T", HEADS * VALUE),), attributes(**facts | more))


BATCHES = {
    "prefill": [(20, 0)],
    "prompts": [(7, 0), (20, 0)],
    "decode": [(1, 33), (1, 36), (1, 60)],
    "mixed": [(1, 12), (1, 36), (40, 0)],
}
CHUNKED = {"chunk": [(9, 33)], "all": [(1, 12), (9, 36), (40, 0)]}


def reference(batch, old, new, dtype: str):
    """Softmax attention over expanded keys and values, request by request."""
    import torch

    up = random_tensor((HEADS * (NOPE + VALUE), LATENT), dtype).float() / math.sqrt(LATENT)
    cached, fresh = ([0, *itertools.accumulate(sizes)] for sizes in ([c for _, c in batch], [q for q, _ in batch]))
    outputs = []
    for index, (q, c) in enumerate(batch):
        begin, end = fresh[index], fresh[index + 1]
        before = slice(cached[index], cached[index + 1])
        rows, keys = (torch.cat([old[part][before], new[part][begin:end]]).float().view(q + c, -1) for part in (1, 2))
        expanded = (rows @ up.T).view(q + c, HEADS, NOPE + VALUE)
        key = torch.cat([expanded[..., :NOPE], keys[:, None].expand(-1, HEADS, -1)], dim=-1)
        scores = torch.einsum("qhd,khd->hqk", new[0][begin:end].float(), key) / math.sqrt(NOPE + ROPE)
        hidden = torch.arange(q + c)[None, :] > torch.arange(c, c + q)[:, None]
        weights = scores.masked_fill(hidden, -math.inf).softmax(-1)
        outputs.append(torch.einsum("hqk,khd->qhd", weights, expanded[..., NOPE:]).reshape(q, -1))
    return torch.cat(outputs)


def check(session, operation: Operation, batch, caches_of) -> None:
    """The cache is filled first, by prompts of what counts as cached, in the same order and in as many blocks."""
    import torch

    dtype = operation.operands[0].dtype
    runner = make_runner(operation, session)
    caches = caches_of(runner)
    prompts = [(max(cached, new), 0) for new, cached in batch]
    filling = runner.trial(Point.of_requests(prompts))
    filling.call()
    starts = [0, *itertools.accumulate(prompt for prompt, _ in prompts)]
    kept = [slice(start, start + cached) for start, (_, cached) in zip(starts, batch, strict=False)]
    old = (None, *(torch.cat([filling.inputs[part][rows] for rows in kept]) for part in (1, 2)))
    filled = caches[0]
    caches.clear()
    trial = runner.trial(Point.of_requests(batch))
    caches[0].copy_(filled)
    tolerance = {"f32": 1e-4, "bf16": 3e-2}[dtype]
    torch.testing.assert_close(
        trial.call().float(), reference(batch, old, trial.inputs, dtype), atol=tolerance, rtol=tolerance
    )
