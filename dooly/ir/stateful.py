"""FLOPs and bytes of operations that read what earlier steps left behind.

Symbols of the batch: ``T`` new tokens, ``P`` attended (query, key) pairs, ``S`` cached rows read with the new ones;
``Tp``, ``Pp`` and ``Sp`` are those of the requests with more than one new token.
"""

from dooly.ir.call import Call
from dooly.ir.expr import Expr, normal, symbol
from dooly.ir.types import ITEM_BYTES

__all__ = ["attention_bytes", "attention_flops", "mla_bytes", "mla_flops"]


def attention_flops(call: Call) -> Expr:
    """Scores and weighted values: two products of a head size per pair and head."""
    return normal(4 * call.integer("heads") * call.integer("head_size") * symbol("P"))


def attention_bytes(call: Call) -> Expr:
    """Query and output, new keys and values written to the cache, cached rows read once per request."""
    item = ITEM_BYTES[call.results[0].dtype]
    cache = call.item_bytes("kv_dtype", call.results[0].dtype)
    row = call.integer("kv_heads") * call.integer("head_size")
    tokens = call.results[0].shape[0]
    asked = ITEM_BYTES[call.operands[0].dtype] if call.operands else item  # queries may be quantized
    query = call.integer("heads") * call.integer("head_size") * tokens * (asked + item)
    return query + 2 * row * tokens * (item + cache) + 2 * row * symbol("S") * cache


def mla_flops(call: Call) -> Expr:
    """Latent attention as the engine runs it: a request with one new token absorbed, one with more expanded.

    Absorbed, queries and outputs go through the up-projection, per token, and heads attend to the latent rows.
    Expanded, all rows of a request go through it, cached ones too, and heads attend to keys and values.
    """
    heads, latent, nope, rope, value = (call.integer(name) for name in _SIZES)
    tokens, up = call.results[0].shape[0], 2 * latent * (nope + value)
    absorbed = (tokens - symbol("Tp")) * up + (symbol("P") - symbol("Pp")) * 2 * (2 * latent + rope)
    expanded = symbol("Sp") * up + symbol("Pp") * 2 * (nope + rope + value)
    return normal(heads * (absorbed + expanded))


def mla_bytes(call: Call) -> Expr:
    """Operands and output once, new rows written to the cache, cached rows read once per request, and what the engine

    puts into memory between its kernels, written and read: absorbed queries and latent outputs, expanded keys and
    values.
    """
    item = ITEM_BYTES[call.results[0].dtype]
    cache = call.item_bytes("kv_dtype", call.results[0].dtype)
    heads, latent, nope, rope, value = (call.integer(name) for name in _SIZES)
    tokens, row = call.results[0].shape[0], latent + rope
    once = sum((operand.bytes for operand in call.operands), call.results[0].bytes)
    absorbed = (tokens - symbol("Tp")) * heads * (2 * latent + rope)
    expanded = symbol("Sp") * heads * (nope + rope + value)
    return normal(once + row * (tokens + symbol("S")) * cache + 2 * (absorbed + expanded) * item)


_SIZES = ("heads", "latent", "nope", "rope", "value")
