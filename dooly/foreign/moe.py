"""Mixtures of experts, with the routing that favours experts least among those that were measured."""

import re

import polars as pl

from dooly.foreign.gemm import BLOCKS, blocks
from dooly.foreign.table import Table, operation, tensor
from dooly.ir import Operation

__all__ = ["MOE"]

_STATIC = '{"activation_scheme":"static","quant_method":"fp8"}'
_EVEN = "balanced"
_ROUTINGS = (_EVEN, "power_law_1.01", "power_law_1.2")
"""From even to skewed.  Of the even one the experts that get a token are known; of others those of chance are taken."""


def _work(
    moe_dtype: str,
    hidden_size: int,
    inter_size: int,
    topk: int,
    num_experts: int,
    moe_tp_size: int,
    moe_ep_size: int,
    kernel_source: str,
) -> Operation | None:
    here, inner = num_experts // moe_ep_size, inter_size // moe_tp_size
    up, down = (here, 2 * inner, hidden_size), (here, hidden_size, inner)
    dtype = "bf16" if moe_dtype == "bfloat16" else "f8e4m3"
    scheme: dict[str, str] = {}
    if moe_dtype == "bfloat16":
        scales = ()
    elif moe_dtype == "fp8":
        scales, scheme = (tensor("f32", here, 2), *(3 * (tensor("f32", here),))), {"scheme": _STATIC}
    elif moe_dtype == "fp8_block":
        scales = tuple(tensor("f32", here, blocks(rows), blocks(columns)) for _, rows, columns in (up, down))
        scheme = {"scheme": BLOCKS}
    else:
        return None
    state, routing = tensor("bf16", "T", hidden_size), tensor("bf16", "T", num_experts)
    return operation(
        "moe",
        *(state, routing, tensor(dtype, *up), tensor(dtype, *down), *scales),
        result=state,
        activation="silu",
        backend=_backend(kernel_source),
        experts=num_experts,
        hidden=hidden_size,
        intermediate=inner,
        **({} if here == num_experts else {"local_experts": here}),
        renormalize=True,
        **scheme,
        scoring="softmax",
        top_k=topk,
    )


def _backend(kernel: str) -> str:
    """Name of the kernels as captures say it.

    >>> _backend("vllm_unquantizedfusedmoe_triton_tritonexperts"), _backend("vllm_fused_moe")
    ('TRITON', 'TRITON')
    """
    found = re.fullmatch(r"vllm_[a-z0-9]+moe_(.+)_[a-z0-9]+", kernel)
    name = found[1].upper() if found else "TRITON"
    return "FlashInfer TRTLLM" if name == "FLASHINFER_TRTLLM" else name


def _least_skewed(rows: pl.DataFrame) -> pl.DataFrame:
    there = set(rows["distribution"].unique())
    return rows.filter(pl.col("distribution") == next((each for each in _ROUTINGS if each in there), _EVEN))


_REACHED = pl.min_horizontal(pl.col("num_tokens") * pl.col("topk"), "num_experts") // pl.col("moe_ep_size")
_TOKENS = pl.concat_str(pl.lit('"T":'), "num_tokens", pl.lit("}"))

MOE = Table(
    "moe",
    "moe_perf.parquet",
    (
        "moe_dtype",
        "hidden_size",
        "inter_size",
        "topk",
        "num_experts",
        "moe_tp_size",
        "moe_ep_size",
        "kernel_source",
    ),
    _work,
    ("num_tokens", "distribution"),
    pl.when(pl.col("distribution") == _EVEN)
    .then(pl.concat_str(pl.lit('{"A":'), pl.max_horizontal(_REACHED, 1), pl.lit(","), _TOKENS))
    .otherwise(pl.concat_str(pl.lit("{"), _TOKENS)),
    kept=_least_skewed,
)
