"""A self-check on a GPU: kernels are timed from CUDA graphs, results are right, clocks are recorded.

    pytest -m gpu tests/executor/test_gpu.py

takes about a minute, of which starting the engine (once, and once more in each rank) is most.
"""

import numpy as np
import pytest

from dooly.database import Point
from dooly.executor import Precision
from dooly.executor.ranks import Ranks
from dooly.executor.runners import make_runner, why_not
from dooly.executor.session import open_session
from dooly.hardware.machine import machine
from dooly.ir import Operation, TensorType, attributes, parse_expr

pytestmark = [pytest.mark.gpu, pytest.mark.engine]

BATCHES = {
    "prefill": [(300, 0)],
    "decode": [(1, 33), (1, 40), (1, 600)],
    "chunk": [(40, 500)],
    "mixed": [(1, 1), (1, 350), (70, 40), (200, 700)],
}


@pytest.fixture(scope="module")
def session():
    with open_session(machine()) as opened:
        yield opened


def tensor(dtype: str, *dims: object) -> TensorType:
    return TensorType(dtype, tuple(parse_expr(str(dim)) for dim in dims))


def timed(session, trial):
    """A trial's samples, which must be plausible."""
    samples = session.measure(trial, Precision.usual(session.device))
    assert len(samples.values_us) >= 15
    assert 0.5 < min(samples.values_us) < 20_000.0
    assert samples.clock_mhz is not None
    assert {"memory_mhz", "power_w"} <= dict(samples.aside).keys()
    return samples


def test_a_linear_layer_is_timed_and_right(session, step):
    import torch

    trial = make_runner(step("bf16")["linear2 256"], session).trial(Point.of(T=64))
    timed(session, trial)
    assert trial.call().shape == (64, 256)
    assert torch.isfinite(trial.call().float()).all()


def test_a_product_of_fp8_matrices_is_near_that_of_what_was_quantized(session):
    import torch

    n, k = 512, 1024
    operands = tensor("f8e4m3", "T", k), tensor("f8e4m3", n, k), tensor("f32", "T", 1), tensor("f32", 1)
    trial = make_runner(Operation("scaled_linear", operands, (tensor("bf16", "T", n),)), session).trial(Point.of(T=48))
    timed(session, trial)
    found = trial.call().float()
    assert found.shape == (48, n)
    assert torch.isfinite(found).all()
    assert 0.5 < found.std().item() < 2.0  # rows of unit size times weights of 1 / sqrt(k)


def attention(backend: str) -> Operation:
    heads = tensor("bf16", "T", 8, 128), tensor("bf16", "T", 2, 128), tensor("bf16", "T", 2, 128)
    facts = {"causal": True, "head_size": 128, "heads": 8, "kv_dtype": "bf16", "kv_heads": 2, "sinks": False}
    return Operation("attention", heads, heads[:1], attributes(backend=backend, soft_cap=None, window=None, **facts))


@pytest.mark.parametrize("backend", ["FLASH_ATTN", "FLASHINFER", "TRITON_ATTN"])
@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
def test_attention_of_any_batch_is_timed(session, backend: str, batch):
    import torch

    trial = make_runner(attention(backend), session).trial(Point.of_requests(batch))
    timed(session, trial)
    found = trial.call()
    assert found.numel() == sum(new for new, _ in batch) * 8 * 128
    assert torch.isfinite(found.float()).all()


def test_a_prompt_attends_to_itself(session):
    import torch

    trial = make_runner(attention("FLASH_ATTN"), session).trial(Point.of_requests([(64, 0)]))
    q, k, v = (part.view(64, -1, 128).transpose(0, 1).float() for part in trial.inputs)
    k, v = (part.repeat_interleave(4, dim=0) for part in (k, v))
    wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(0, 1)
    torch.testing.assert_close(trial.call().float().view(64, 8, 128), wanted, atol=3e-2, rtol=3e-2)


@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
def test_latent_attention_of_any_batch_is_timed(session, batch):
    import torch

    sizes = {"heads": 16, "latent": 512, "nope": 128, "rope": 64, "value": 128}
    operands = tensor("bf16", "T", 16, 192), tensor("bf16", "T", 512), tensor("bf16", "T", 1, 64)
    facts = {"backend": "FLASH_ATTN_MLA", "kv_dtype": "bf16", "prefill_backend": "FLASH_ATTN"}
    operation = Operation(
        "mla_attention",
        (*operands, tensor("bf16", 16 * 256, 512)),
        (tensor("bf16", "T", 16 * 128),),
        attributes(**sizes, **facts),
    )
    trial = make_runner(operation, session).trial(Point.of_requests(batch))
    timed(session, trial)
    assert torch.isfinite(trial.call().float()).all()


def test_experts_are_timed_and_right(session, moe):
    import torch

    trial = make_runner(moe("bf16", hidden=256, intermediate=256), session).trial(Point.of(T=32, A=4))
    timed(session, trial)
    hidden, logits = trial.inputs
    assert len(logits.float().topk(2).indices.unique()) == 4
    assert trial.call().shape == hidden.shape
    assert torch.isfinite(trial.call().float()).all()


@pytest.mark.parametrize("custom", [True, False], ids=["custom", "nccl"])
def test_an_all_reduce_of_two_gpus_is_the_sum_and_is_timed(custom: bool):
    here = machine(custom_all_reduce=custom)
    rows = tensor("bf16", "T", 4096)
    operation = Operation("all_reduce", (rows,), (rows,), attributes(group="tp", ranks=2))
    if (reason := why_not(operation, here)) is not None:
        pytest.skip(reason)
    ranks = Ranks(here, 2)
    try:
        ((first,), sum_there), ((second,), sum_here) = ranks.call(operation, Point.of(T=8))
        assert np.array_equal(sum_there, sum_here)
        np.testing.assert_allclose(sum_here, first + second, atol=0.05, rtol=0.02)
        small, large = (
            ranks.measure(operation, Point.of(T=rows), Precision.usual("cuda")).values_us for rows in (1, 8192)
        )
        assert 0.5 < min(small) < min(large) < 20_000.0
    finally:
        ranks.close()
