"""Latent attention through the engine's backends: results against keys and values expanded in plain torch."""

import itertools
import math
from dataclasses import replace

import pytest

from dooly.database import Point
from dooly.executor.runners import make_runner
from dooly.executor.session import Unsupported, open_session
from dooly.executor.tensors import random_tensor
from dooly.hardware.environment import environment_for
from dooly.hardware.machine import machine
from dooly.ir import Operation, TensorType, attributes, parse_expr

HEADS, LATENT, NOPE, ROPE, VALUE = 2, 512, 32, 64, 24  # the engine's kernel for decoding on a CPU knows 512 + 64


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


@pytest.fixture(scope="module")
def session():
    with open_session(machine()) as opened:
        yield opened


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


@pytest.mark.engine
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize(
    "batch",
    [[(20, 0)], [(7, 0), (20, 0)], [(1, 33), (1, 36), (1, 60)], [(1, 12), (1, 36), (40, 0)]],
    ids=["prefill", "prompts", "decode", "mixed"],
)
def test_latent_attention_of_any_batch(session, dtype: str, batch, caches_of):
    """The cache is filled first, by prompts of what counts as cached, in the same order and in as many blocks."""
    import torch

    runner = make_runner(latent(dtype), session)
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


@pytest.mark.engine
def test_layers_with_weights_of_their_own_take_turns(session):
    trial = make_runner(latent("f32"), session).trial(Point.of_requests([(5, 0)]))
    assert trial.turns > 2
    assert not trial.call().equal(trial.call())


@pytest.mark.engine
def test_what_the_cpu_backend_does_not_do_says_so(session):
    with pytest.raises(NotImplementedError, match="reads no prompt in chunks"):
        make_runner(latent("f32"), session).trial(Point.of_requests([(4, 8)]))
    with pytest.raises(Unsupported, match=r"selects CPU_MLA and CPU_SDPA_MLA here, .*FLASH_ATTN_MLA"):
        make_runner(latent("f32", backend="FLASH_ATTN_MLA"), session)
    with pytest.raises(Unsupported, match="attention to a cache of f8e4m3"):
        make_runner(latent("f32", kv_dtype="f8e4m3"), session)


def test_blocks_are_as_large_as_the_backend_has_them(somewhere):
    assert environment_for(latent("bf16"), somewhere).get("block_size") == 16
    gpu = replace(somewhere, platform="h200", block_size=32)
    assert environment_for(latent("bf16", backend="FLASH_ATTN_MLA"), gpu).get("block_size") == 32
    assert environment_for(latent("bf16", backend="FLASHMLA"), gpu).get("block_size") == 64
