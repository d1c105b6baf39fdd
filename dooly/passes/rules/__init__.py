"""Rules of ``canonicalize``, one idea each, grouped by what they rewrite; the tuple says in which order they are tried."""

from dooly.passes.rules.elementwise import cast, commute, copy, plain_name
from dooly.passes.rules.layers import (
    argmax,
    collective,
    embedding,
    fill,
    index_select,
    norm,
    rotary,
    sequence_chunk,
    silu_and_mul,
)
from dooly.passes.rules.products import product, transposed_weight
from dooly.passes.rules.quantized import amax, packed_linear, scaled_linear, scaled_quant
from dooly.passes.rules.rule import Context, Rule
from dooly.passes.rules.views import drop_identity, reshape, slice_, split, transpose

__all__ = ["RULES", "Context", "Rule"]

RULES: tuple[Rule, ...] = (
    reshape,
    transpose,
    product,
    transposed_weight,
    scaled_linear,
    scaled_quant,
    packed_linear,
    amax,
    split,
    slice_,
    cast,
    argmax,
    index_select,
    fill,
    embedding,
    norm,
    rotary,
    sequence_chunk,
    collective,
    silu_and_mul,
    copy,
    plain_name,
    commute,
    drop_identity,
)
