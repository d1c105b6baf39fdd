"""Matrix products of ``m`` rows, by the element type of their weights.

The source times a whole layer: where activations are converted first, that is part of the time.  The kernel that
the engine chooses changes with the rows, so none is named.
"""

import polars as pl

from dooly.foreign.table import Table, operation, tensor
from dooly.ir import Operation

__all__ = ["BLOCKS", "GEMM", "blocks"]

BLOCKS = '{"activation_scheme":"dynamic","quant_method":"fp8","weight_block_size":[128,128]}'
"""The scheme of weights in 8 bits with a scale for each block of 128 x 128, as captures say it."""


def blocks(size: int) -> int:
    """Blocks that cover so many elements."""
    return -(-size // 128)


def _work(gemm_dtype: str, n: int, k: int) -> Operation | None:
    rows, result = tensor("bf16", "T", k), tensor("bf16", "T", n)
    if gemm_dtype == "bfloat16":
        return operation("linear", rows, tensor("bf16", n, k), result=result)
    weight = tensor("f8e4m3", n, k)
    if gemm_dtype == "fp8":
        scale = tensor("f32")
        return operation("scaled_linear", tensor("f8e4m3", "T", k), weight, scale, scale, result=result)
    if gemm_dtype == "fp8_block":
        scales = tensor("f32", blocks(n), blocks(k))
        return operation("packed_linear", rows, weight, scales, result=result, scheme=BLOCKS)
    return None


GEMM = Table(
    "gemm",
    "gemm_perf.parquet",
    ("gemm_dtype", "n", "k"),
    _work,
    ("m",),
    pl.concat_str(pl.lit('{"T":'), "m", pl.lit("}")),
)
