"""FLOPs and bytes of operations that carry a state of fixed size from token to token: convolutions, scans, delta rules.

Symbols of the batch: ``T`` new tokens (an axis of the operands), ``R`` requests, ``Tp`` tokens of the requests with more
than one new token.  Each request reads its state and writes it back once.  Kernels for one new token follow the
recurrence; those for more work on chunks of tokens, inside which the recurrence becomes products of matrices.
"""

import sympy

from dooly.ir.call import Call
from dooly.ir.expr import Expr, normal, symbol

__all__ = [
    "convolution_bytes",
    "convolution_flops",
    "delta_rule_bytes",
    "delta_rule_flops",
    "mamba2_bytes",
    "mamba2_flops",
    "scan_bytes",
    "scan_flops",
]

_SILU = 4


def convolution_flops(call: Call) -> Expr:
    """A window of products per element, its bias and its activation."""
    return normal(call.results[0].numel * (2 * call.integer("conv_kernel") + _SILU))


def convolution_bytes(call: Call) -> Expr:
    """Operands and result once, the last inputs of each request read and written; operands are ``[channels, T]``."""
    return normal(_once(call) + _convolution_state(call, call.results[0].shape[0]))


def scan_flops(call: Call) -> Expr:
    """Mamba-1, per element and state: ``h = exp(dt*A)*h + dt*x*B`` and ``y = h*C``; softplus, skip and gate."""
    return normal(call.results[0].numel * (7 * call.integer("state_size") + 7 + _SILU))


def scan_bytes(call: Call) -> Expr:
    """Operands and result once, the state of each request read and written; operands are ``[channels, T]``."""
    return normal(_once(call) + _state(call, call.results[0].shape[0] * call.integer("state_size")))


def mamba2_flops(call: Call) -> Expr:
    """Convolution, then the state space dual: per head and token ``h = a*h + (dt*x)*B``, ``y = h*C``.

    In a chunk of ``Q`` tokens: ``C*B`` per group, its product with ``x``, what the chunk adds to the state and what the
    state adds to it.  Source: Dao and Gu, arXiv 2405.21060, section 6.
    """
    heads, size, groups, state, chunk = (call.integer(name) for name in _MAMBA2)
    tokens, prefill = call.results[0].shape[0], symbol("Tp")
    convolved = (heads * size + 2 * groups * state) * (2 * call.integer("conv_kernel") + _SILU)
    recurrent = heads * size * (5 * state + 3)
    chunked = 2 * chunk * groups * state + heads * size * (2 * chunk + 4 * state + 3)
    return normal(tokens * convolved + (tokens - prefill) * recurrent + prefill * chunked)


def mamba2_bytes(call: Call) -> Expr:
    """Operands and result once (the gate in the first operand is left alone), both states read and written."""
    heads, size, groups, state, _ = (call.integer(name) for name in _MAMBA2)
    channels = heads * size + 2 * groups * state
    gate = call.results[0].bytes
    return normal(_once(call) - gate + _convolution_state(call, channels) + _state(call, heads * size * state))


def delta_rule_flops(call: Call) -> Expr:
    """Convolution, then the gated delta rule: per value head and token ``S = a*S + k*(b*(v - S*k))``, ``o = S*q``.

    In a chunk of ``Q`` tokens: products of keys with keys and queries, the inverse of a triangle, keys and values
    through it, and what chunk and state add to each other.  Source: Yang et al., arXiv 2412.06464, section 3.
    """
    key_heads, heads, key, value, chunk = (call.integer(name) for name in _DELTA_RULE)
    tokens, prefill = call.results[0].shape[0], symbol("Tp")
    convolved = (2 * key_heads * key + heads * value) * (2 * call.integer("conv_kernel") + _SILU)
    recurrent = heads * (7 * key * value + 2 * value)
    chunked = heads * (chunk * (6 * key + 4 * value) + sympy.Rational(2, 3) * chunk**2 + 6 * key * value)
    return normal(tokens * convolved + (tokens - prefill) * recurrent + prefill * chunked)


def delta_rule_bytes(call: Call) -> Expr:
    """Operands and result once (the zeros that the result replaces are not read), both states read and written."""
    key_heads, heads, key, value, _ = (call.integer(name) for name in _DELTA_RULE)
    channels = 2 * key_heads * key + heads * value
    read = _once(call) - call.results[0].bytes
    return normal(read + _convolution_state(call, channels) + _state(call, heads * key * value))


def _once(call: Call) -> Expr:
    return sum((type_.bytes for type_ in (*call.operands, *call.results)), sympy.Integer(0))


def _convolution_state(call: Call, channels: Expr) -> Expr:
    """The last inputs that the window still reaches, read and written."""
    window = call.integer("conv_kernel") - 1
    return 2 * symbol("R") * channels * window * call.item_bytes("conv_dtype", call.results[0].dtype)


def _state(call: Call, elements: Expr) -> Expr:
    return 2 * symbol("R") * elements * call.item_bytes("state_dtype", call.results[0].dtype)


_MAMBA2 = ("heads", "head_size", "groups", "state_size", "chunk_size")
_DELTA_RULE = ("key_heads", "value_heads", "key_size", "value_size", "chunk_size")
