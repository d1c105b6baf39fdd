"""Costs of operations with a state: by the recurrence for one new token, in chunks for more."""

import pytest

from dooly.ir import Operation, TensorType, attributes, evaluate, parse_expr

CONV = {"conv_kernel": 4, "conv_dtype": "bf16"}
STATE = {"state_dtype": "f32"}


def tensor(dtype: str, *dims: object) -> TensorType:
    return TensorType(dtype, tuple(parse_expr(str(dim)) for dim in dims))


def mamba2(heads: int = 8, size: int = 16, groups: int = 2, state: int = 32, chunk: int = 64) -> Operation:
    channels = heads * size + 2 * groups * state
    sizes = {"heads": heads, "head_size": size, "groups": groups, "state_size": state, "chunk_size": chunk}
    return Operation(
        "mamba2_mixer",
        (tensor("bf16", "T", heads * size + channels + heads), tensor("bf16", channels, 1, 4)),
        (tensor("bf16", "T", heads * size),),
        attributes(**sizes, **CONV, **STATE),
    )


def delta_rule(key_heads: int = 2, heads: int = 4, key: int = 16, value: int = 32, chunk: int = 64) -> Operation:
    channels = 2 * key_heads * key + heads * value
    sizes = {"key_heads": key_heads, "value_heads": heads, "key_size": key, "value_size": value, "chunk_size": chunk}
    gates = (tensor("bf16", "T", heads), tensor("bf16", "T", heads))
    return Operation(
        "gated_delta_rule",
        (tensor("bf16", "T", channels), *gates, tensor("bf16", "T", heads, value)),
        (tensor("bf16", "T", heads, value),),
        attributes(**sizes, **CONV, **STATE),
    )


def scan(channels: int = 64, state: int = 16) -> Operation:
    operands = (tensor("bf16", channels, "T"), tensor("bf16", channels, "T"), tensor("f32", channels, state))
    return Operation(
        "selective_scan", operands, (tensor("bf16", channels, "T"),), attributes(state_size=state, **STATE)
    )


def convolution(channels: int = 64) -> Operation:
    operands = (tensor("bf16", channels, "T"), tensor("bf16", channels, 4))
    return Operation("causal_conv1d", operands, (tensor("bf16", channels, "T"),), attributes(**CONV))


ALL = [mamba2(), delta_rule(), scan(), convolution()]


@pytest.mark.parametrize("operation", ALL, ids=lambda operation: operation.target)
def test_a_point_gives_requests_and_where_kernels_differ_the_tokens_of_prefills(operation: Operation) -> None:
    chunked = operation.target in ("mamba2_mixer", "gated_delta_rule")
    assert operation.axes == (("R", "T", "Tp") if chunked else ("R", "T"))
    assert {str(s) for s in operation.flops.free_symbols} <= set(operation.axes)


@pytest.mark.parametrize("operation", ALL, ids=lambda operation: operation.target)
def test_the_work_grows_with_tokens_and_the_traffic_with_requests(operation: Operation) -> None:
    few, many = ({"T": tokens, "R": 8, "Tp": 0} for tokens in (8, 16))
    assert evaluate(operation.flops, many) == 2 * evaluate(operation.flops, few)
    one, all_ = ({"T": 8, "R": requests, "Tp": 0} for requests in (1, 8))
    assert evaluate(operation.bytes, one) < evaluate(operation.bytes, all_)


def test_the_state_of_each_request_is_read_and_written() -> None:
    at = {"T": 8, "Tp": 0}
    for operation, state in (
        (mamba2(), 4 * 8 * 16 * 32 + 2 * 3 * (8 * 16 + 2 * 2 * 32)),
        (delta_rule(), 4 * 4 * 16 * 32 + 2 * 3 * (2 * 2 * 16 + 4 * 32)),
        (scan(), 4 * 64 * 16),
        (convolution(), 2 * 3 * 64),
    ):
        more = evaluate(operation.bytes, {**at, "R": 5}) - evaluate(operation.bytes, {**at, "R": 4})
        assert more == 2 * state, operation.target


def test_one_token_follows_the_recurrence() -> None:
    """Counted by hand: what a head of Mamba-2 and of the delta rule computes per element of its state."""
    one = {"T": 1, "R": 1, "Tp": 0}
    activation = 2 * 4 + 4
    assert evaluate(mamba2().flops, one) == (8 * 16 + 2 * 2 * 32) * activation + 8 * 16 * (5 * 32 + 3)
    assert evaluate(delta_rule().flops, one) == (2 * 2 * 16 + 4 * 32) * activation + 4 * (7 * 16 * 32 + 2 * 32)


@pytest.mark.parametrize("make", [mamba2, delta_rule])
def test_longer_chunks_are_more_work_and_only_for_prefills(make) -> None:
    short, long = make(chunk=64), make(chunk=128)
    decode, prefill = ({"T": 256, "R": 2, "Tp": tokens} for tokens in (0, 256))
    assert evaluate(short.flops, decode) == evaluate(long.flops, decode)
    assert evaluate(short.flops, prefill) < evaluate(long.flops, prefill)
