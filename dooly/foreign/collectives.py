"""Communication between the GPUs of one host, over numbers of elements in 16 bits.

An operation of dooly has rows of a model's width.  Times are stored for rows of `WIDTH`, and taken for rows of any.
"""

import polars as pl

from dooly.foreign.table import Table, operation, tensor
from dooly.ir import Operation

__all__ = ["ALL_GATHER", "ALL_REDUCE", "WIDTH"]

WIDTH = 128


def _reduced(allreduce_dtype: str, num_gpus: int) -> Operation | None:
    rows = tensor("bf16", "T", WIDTH)
    if allreduce_dtype != "bfloat16":
        return None
    return operation("all_reduce", rows, result=rows, group="tp", ranks=num_gpus)


def _gathered(op_name: str, nccl_dtype: str, num_gpus: int) -> Operation | None:
    if op_name != "all_gather" or nccl_dtype != "half":
        return None
    whole = tensor("bf16", "T", num_gpus * WIDTH)
    return operation("all_gather", tensor("bf16", "T", WIDTH), result=whole, dim=1, group="tp", ranks=num_gpus)


def _as_launched(rows: pl.DataFrame) -> pl.DataFrame:
    """In CUDA graphs, as the engine runs it; as single launches where nothing else was measured."""
    graphs = rows.filter(pl.col("backend").str.ends_with("graph"))
    return rows if graphs.is_empty() else graphs


def _rows(elements: pl.Expr) -> pl.Expr:
    return pl.concat_str(pl.lit('{"T":'), elements // WIDTH, pl.lit("}"))


ALL_REDUCE = Table(
    "comm",
    "custom_allreduce_perf.parquet",
    ("allreduce_dtype", "num_gpus"),
    _reduced,
    ("message_size", "backend"),
    _rows(pl.col("message_size")),
    kept=_as_launched,
)
ALL_GATHER = Table(
    "comm",
    "nccl_perf.parquet",
    ("op_name", "nccl_dtype", "num_gpus"),
    _gathered,
    ("message_size",),
    _rows(pl.col("message_size") // pl.col("num_gpus")),
    kept=lambda rows: rows.filter(pl.col("message_size") >= WIDTH * pl.col("num_gpus")),
)
