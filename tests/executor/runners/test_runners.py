"""Every runner does the work that the operation describes: results against plain torch, at tiny sizes."""

import itertools
import math
from dataclasses import replace

import pytest

from dooly.database import Point
from dooly.executor import Precision
from dooly.executor.runners import make_runner, why_not
from dooly.executor.runners.region import RegionRunner, _model_and_after
from dooly.executor.runners.region_pass import Pass, compile_pass
from dooly.executor.session import Unsupported, open_session
from dooly.executor.tensors import copies_for, need_memory, random_tensor, shape_of
from dooly.executor.timing.cpu import measure
from dooly.hardware.environment import environment_for
from dooly.hardware.machine import machine
from dooly.ir import Kind, attributes
from dooly.workspace.shipped import measured_models

pytestmark = pytest.mark.engine

TOLERANCE = {"f32": 1e-4, "bf16": 3e-2}


@pytest.fixture(scope="module")
def session():
    with open_session(machine()) as opened:
        yield opened


def close(found, wanted, dtype: str) -> None:
    import torch

    torch.testing.assert_close(found.float(), wanted.float(), atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("label", ["linear2 256", "linear3 128"])
def test_linear_is_the_product_with_the_weight(session, step, dtype: str, label: str):
    operation = step(dtype)[label]
    trial = make_runner(operation, session).trial(Point.of(T=5))
    n, k = (int(dim) for dim in operation.operands[1].shape)
    weight = random_tensor((n, k), dtype).float() / math.sqrt(k)
    bias = random_tensor((n,), dtype).float() / math.sqrt(k) if len(operation.operands) > 2 else 0.0
    close(trial.call(), trial.inputs[0].float() @ weight.T + bias, dtype)


def test_linear_rotates_through_different_weights(session, step):
    trial = make_runner(step("f32")["linear2 256"], session).trial(Point.of(T=2))
    first, second = trial.call(), trial.call()
    assert not first.equal(second)


def rows(tensor, starts):
    return [tensor[a:b] for a, b in itertools.pairwise(starts)]


def reference_attention(batch, old, new, heads: int, kv_heads: int, size: int, window: int | None):
    """Softmax attention per request.  old, new: (q, k, v) of the cached and of the new tokens, requests one by one."""
    import torch

    cached = [0]
    fresh = [0]
    for q, c in batch:
        cached.append(cached[-1] + c)
        fresh.append(fresh[-1] + q)
    outputs = []
    for index, (q, c) in enumerate(batch):
        query = rows(new[0], fresh)[index].float().view(q, heads, size)
        key, value = (
            torch.cat([rows(old[i], cached)[index], rows(new[i], fresh)[index]]).float().view(q + c, kv_heads, size)
            for i in (1, 2)
        )
        key, value = (x.repeat_interleave(heads // kv_heads, dim=1) for x in (key, value))
        scores = torch.einsum("qhd,khd->hqk", query, key) / math.sqrt(size)
        at = torch.arange(c, c + q)[:, None]
        seen = torch.arange(c + q)[None, :]
        hidden = (seen > at) if window is None else (seen > at) | (seen <= at - window)
        weights = scores.masked_fill(hidden, -math.inf).softmax(-1)
        outputs.append(torch.einsum("hqk,khd->qhd", weights, value).reshape(q, heads * size))
    return torch.cat(outputs)


@pytest.mark.parametrize(
    "batch",
    [
        [(20, 0)],
        [(1, 33), (1, 40), (1, 60)],
        [(9, 40)],
        [(1, 1), (1, 35), (7, 40), (20, 70)],
    ],
    ids=["prefill", "decode", "chunk-with-history", "mixed-and-skewed"],
)
@pytest.mark.parametrize("window", ["none", "24"])
def test_attention_of_any_batch(session, step, batch, window: str, caches_of):
    """The cache is filled first, by prefilling what counts as cached; then the batch itself runs on top of it.

    The lengths are such that both fill as many blocks, and so the same ones, and that both are in the order of points.
    """
    runner = make_runner(step("f32", window)["attention3 128"], session)
    caches = caches_of(runner)
    old = (None, random_tensor((0, 64), "f32"), random_tensor((0, 64), "f32"))
    filled = None
    if any(cached for _, cached in batch):
        filling = runner.trial(Point.of_requests([(cached, 0) for _, cached in batch]))
        filling.call()
        old, filled = filling.inputs, caches[0]
        caches.clear()
    trial = runner.trial(Point.of_requests(batch))
    if filled is not None:
        caches[0].copy_(filled)
    wanted = reference_attention(batch, old, trial.inputs, 4, 2, 32, None if window == "none" else int(window))
    close(trial.call(), wanted, "f32")


def test_requests_have_distinct_physical_blocks(session, step):
    runner = make_runner(step("bf16")["attention3 128"], session)
    table = runner.block_table([(1, 100), (40, 0), (3, 64)])
    blocks = [block for row in table for block in row]
    assert [len(row) for row in table] == [4, 2, 3]
    assert sorted(blocks) == list(range(1, 10))
    assert blocks != sorted(blocks)


def test_attention_records_the_time_of_metadata_aside(session, step):
    trial = make_runner(step("bf16")["attention3 128"], session).trial(Point.of_requests([(1, 10)] * 3))
    samples = measure(trial.call, Precision(max_samples=3), trial.aside)
    assert dict(samples.aside)["metadata_us"] > 0.0


def test_what_plans_attention_sees_the_layers_of_its_own_operation_alone(session, step):
    """Where a model has windows of several sizes the engine plans otherwise; those of other operations do not count."""
    for window in ("none", "24"):
        runner = make_runner(step("bf16", window)["attention3 128"], session)
        assert list(runner.builder.vllm_config.compilation_config.static_forward_context) == runner.names
    assert len(session.layers) >= 2


def test_only_activations_are_fresh_from_the_operation_before(session, step):
    operations = step("bf16")
    batch = Point.of_requests([(1, 10)] * 3)
    fresh = {
        name: make_runner(each, session).trial(Point.of(T=6, L=4)).fresh
        for name, each in operations.items()
        if each.kind is not Kind.ATTENTION
    }
    assert fresh["linear2 256"] is None  # weights in turn leave nothing else in a cache
    assert fresh["embedding+rms_norm"] == ()
    assert [tuple(each.shape) for each in fresh["add+mul+index_select"]] == [(6, 128)] * 2
    trial = make_runner(operations["attention3 128"], session).trial(batch)
    assert trial.fresh == trial.inputs


def test_an_environment_says_whether_caches_were_cold(step, somewhere):
    warm = replace(somewhere, platform="h200", mode="graph")
    cold = replace(warm, facts=(("caches", "cold"),))
    differ = {name for name, each in step("bf16").items() if environment_for(each, warm) != environment_for(each, cold)}
    assert {"attention3 128", "silu_and_mul"} <= differ
    assert not any(name.startswith("linear") for name in differ)


def test_an_environment_of_large_products_says_whether_the_gpu_was_rested(step, moe, somewhere):
    busy = replace(somewhere, platform="h200", mode="graph")
    rested = replace(busy, facts=(("clocks", "rested"),))
    operations = {**step("bf16"), "moe": moe("bf16")}
    differ = {name for name, each in operations.items() if environment_for(each, busy) != environment_for(each, rested)}
    assert "moe" in differ
    assert differ - {"moe"} == {name for name in operations if name.startswith("linear")}


def test_attention_of_another_backend_is_refused(session, step):
    operation = step("bf16")["attention3 128"]
    facts = dict(operation.attrs) | {"backend": "FLASH_ATTN"}
    with pytest.raises(Unsupported, match="selects CPU_ATTN here, the operation names FLASH_ATTN"):
        make_runner(replace(operation, attrs=attributes(**facts)), session)


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize(("tokens", "activated"), [(1, 2), (6, 8), (6, 3)])
def test_moe_routes_and_computes(session, moe, dtype: str, tokens: int, activated: int):
    import torch
    from torch.nn.functional import silu

    trial = make_runner(moe(dtype), session).trial(Point.of(T=tokens, A=activated))
    hidden, logits = trial.inputs
    weights, chosen = logits.float().softmax(-1).topk(2)
    assert len(chosen.unique()) == activated
    weights = weights / weights.sum(-1, keepdim=True)
    w13 = random_tensor((8, 192, 64), dtype, 0).float() / 8.0
    w2 = random_tensor((8, 64, 96), dtype, 1).float() / math.sqrt(96)
    wanted = torch.zeros(tokens, 64)
    for token in range(tokens):
        for weight, expert in zip(weights[token], chosen[token], strict=True):
            gate, up = (w13[expert] @ hidden[token].float()).chunk(2)
            wanted[token] += weight * (w2[expert] @ (silu(gate) * up))
    before = hidden.clone()
    close(trial.call(), wanted, dtype)
    assert hidden.equal(before)


@pytest.mark.parametrize(("tokens", "activated", "fullest"), [(6, 8, 4), (6, 3, 6), (16, 5, 7), (5, 6, 2)])
def test_moe_fills_one_expert_as_much_as_asked(session, moe, tokens: int, activated: int, fullest: int):
    trial = make_runner(moe("f32"), session).trial(Point.of(T=tokens, A=activated, M=fullest))
    chosen = trial.inputs[1].topk(2).indices
    loads = sorted(chosen.unique(return_counts=True)[1].tolist())
    assert len(loads) == activated
    assert loads[-1] == fullest
    assert loads[-2] - loads[0] <= 1
    assert trial.call().shape == (tokens, 64)


def test_a_load_that_no_routing_has_is_refused(session, moe):
    runner = make_runner(moe("f32"), session)
    with pytest.raises(ValueError, match="the fullest of 4 experts gets 3 to 6 of 6 tokens, not 7"):
        runner.trial(Point.of(T=6, A=4, M=7))


def test_region_runs_its_operations_in_sequence(session, step):
    import torch

    operations = step("f32")
    trial = make_runner(operations["embedding+rms_norm"], session).trial(Point.of(T=6))
    table, ids, weight = trial.inputs
    looked_up, normed = trial.call()
    assert int(ids.max()) < len(table)
    close(looked_up, table[ids], "f32")
    close(normed, torch.nn.functional.rms_norm(table[ids], (128,), weight, 1e-6), "f32")

    trial = make_runner(operations["silu_and_mul"], session).trial(Point.of(T=3))
    gate, up = trial.inputs[0].chunk(2, dim=1)
    close(trial.call()[0], torch.nn.functional.silu(gate) * up, "f32")

    trial = make_runner(operations["add+mul+index_select"], session).trial(Point.of(T=9, L=4))
    a, b, picked = trial.inputs
    assert picked.tolist() == sorted(picked.tolist())
    close(trial.call()[0], (a + b)[picked], "f32")  # times the 1.0 that stands for all scalars

    trial = make_runner(operations["cast+argmax"], session).trial(Point.of(T=4))
    assert trial.call()[0].equal(trial.inputs[0].argmax(-1))


def test_rotary_region_rotates_query_and_key_in_place(session, step):
    import torch

    trial = make_runner(step("f32")["slice+slice+rotary_embedding"], session).trial(Point.of(T=3))
    packed, positions, table = trial.inputs
    before = packed.clone()
    by_result = {tuple(value.shape): value for value in trial.call()}
    cos, sin = table[positions][:, None, :].chunk(2, dim=-1)
    query = before[:, :128].view(3, 4, 32)
    low, high = query.chunk(2, dim=-1)
    wanted = torch.cat([low * cos - high * sin, high * cos + low * sin], dim=-1)
    close(by_result[3, 128], wanted.view(3, 128), "f32")
    for _ in range(200):
        trial.call()
    assert by_result[3, 128].norm().isclose(wanted.norm(), rtol=1e-3), "repeating must not let the values grow"


def test_every_operation_of_a_layer_has_a_runner(session, step):
    for operation in step("bf16").values():
        point = (
            Point.of_requests([(4, 0)])
            if operation.kind is Kind.ATTENTION
            else Point.of(**dict.fromkeys(operation.axes, 4))
        )
        samples = measure(make_runner(operation, session).trial(point).call, Precision(max_samples=3, cap_s=0.01))
        assert len(samples.values_us) == 3
        assert min(samples.values_us) > 0.0


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"local_experts": 4}, "experts of one rank of several"),
        ({"correction_bias": True, "groups": 8}, "experts with correction_bias, groups"),
    ],
)
def test_experts_that_are_not_plain_say_why_they_are_not_measured(moe, somewhere, more, reason: str):
    plain = moe("f32")
    assert why_not(plain, somewhere) is None
    assert reason in why_not(replace(plain, attrs=attributes(**dict(plain.attrs), **more)), somewhere)


def test_what_is_quantized_says_where_it_is_measured(step, somewhere):
    linear, attention = step("bf16")["linear2 256"], step("bf16")["attention3 128"]
    scaled = replace(linear, target="scaled_linear")
    assert why_not(scaled, somewhere) == "a product of quantized matrices; the engine has kernels for it on GPUs"
    gpu = replace(somewhere, platform="h200")
    assert why_not(scaled, gpu) is None
    assert environment_for(scaled, gpu) != environment_for(linear, gpu)
    small = replace(attention, attrs=attributes(**dict(attention.attrs) | {"kv_dtype": "f8e4m3"}))
    assert "attention to a cache of f8e4m3" in why_not(small, gpu)


def test_an_unknown_small_operation_is_unsupported(session, step):
    operation = step("f32")["silu_and_mul"]
    strange = replace(operation.body.ops[0], target="_C.something_new")
    with pytest.raises(Unsupported, match=r"_C\.something_new"):
        make_runner(replace(operation, body=replace(operation.body, ops=(strange,))), session)


def test_weights_exceed_the_cache_and_memory_is_checked_first(session):
    here = session.machine
    megabyte = 1 << 20
    assert copies_for(megabyte, here) * megabyte > min(here.cache_bytes, 63 * megabyte)
    assert copies_for(1 << 40, here) == 2
    with pytest.raises(MemoryError, match="more than half"):
        need_memory(here.memory_bytes, here)


def test_a_compiled_region_computes_the_same_for_any_number_of_tokens(session, step):
    operation = step("f32")["slice+slice+rotary_embedding"]
    runner = RegionRunner(operation, session)
    part = Pass(operation.body, session, native=True)
    compile_pass(part, runner.trial(Point.of(T=64)).inputs, session)
    for tokens in (1, 7, 200):
        trial = runner.trial(Point.of(T=tokens))
        inputs = tuple(tensor.clone() for tensor in trial.inputs)
        for found, wanted in zip(part(*inputs), trial.call(), strict=True):
            close(found, wanted, "f32")


def shipped_regions():
    """One region for each kind of small operation in the measured models; tables are divided between GPUs only."""
    seen = {"vocab_parallel_embedding"}
    for operation in measured_models().operations:
        inside = {op.target for op in operation.body.ops} if operation.body is not None else set()
        if inside - seen:
            seen |= inside
            yield operation


@pytest.mark.parametrize("operation", list(shipped_regions()), ids=lambda operation: operation.name)
def test_small_operations_of_the_measured_models_are_known(session, operation):
    sizes = dict.fromkeys(operation.axes, 3)
    results = make_runner(operation, session).trial(Point.of(**sizes)).call()
    assert [tuple(each.shape) for each in results] == [tuple(shape_of(each, sizes)) for each in operation.results]


def test_what_has_rows_of_logits_runs_after_the_model(step):
    operation = step("bf16")["add+mul+index_select"]
    model, after = _model_and_after(operation, operation.body)
    assert [op.target for op in model.ops] == ["add", "mul"]
    assert [op.target for op in after.ops] == ["index_select"]
    assert {arg.name for arg in after.args} >= set(model.outputs)
    assert after.outputs == operation.body.outputs
    sampling = step("bf16")["cast+argmax"]
    model, after = _model_and_after(sampling, sampling.body)
    assert not model.ops
    assert len(after.ops) == 2
