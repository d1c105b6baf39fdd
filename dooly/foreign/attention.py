"""Attention: prompts (``isl`` new tokens of each request, ``step`` cached) and decoding (one new token)."""

import polars as pl

from dooly.foreign.table import Table, operation, tensor
from dooly.ir import Operation

__all__ = ["CONTEXT", "GENERATION"]

_BACKENDS = {"flashinfer": "FLASHINFER", "flash_attn": "FLASH_ATTN", "triton": "TRITON_ATTN"}
_TYPES = {"bfloat16": "bf16", "fp8": "f8e4m3"}


def _work(
    kernel_source: str,
    num_heads: int,
    num_key_value_heads: int,
    head_dim: int,
    attn_dtype: str,
    kv_cache_dtype: str,
    window_size: int,
) -> Operation | None:
    backend = next((name for part, name in _BACKENDS.items() if part in kernel_source), None)
    cache = _TYPES.get(kv_cache_dtype)
    if backend is None or cache is None or attn_dtype != "bfloat16":
        return None
    query, rows = (tensor("bf16", "T", heads, head_dim) for heads in (num_heads, num_key_value_heads))
    return operation(
        "attention",
        *(query, rows, rows),
        result=query,
        backend=backend,
        causal=True,
        head_size=head_dim,
        heads=num_heads,
        kv_dtype=cache,
        kv_heads=num_key_value_heads,
        sinks=False,
        soft_cap=None,
        window=window_size or None,
    )


_SHAPE = (
    "kernel_source",
    "num_heads",
    "num_key_value_heads",
    "head_dim",
    "attn_dtype",
    "kv_cache_dtype",
    "window_size",
)
_SIZES = ("batch_size", "isl", "step")
_POINT = pl.concat_str(pl.lit('{"requests":[['), "isl", pl.lit(","), "step", pl.lit(","), "batch_size", pl.lit("]]}"))

CONTEXT, GENERATION = (
    Table("attention", f"{phase}_attention_perf.parquet", _SHAPE, _work, _SIZES, _POINT, {"window_size": 0})
    for phase in ("context", "generation")
)
