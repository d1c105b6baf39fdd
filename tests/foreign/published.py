"""Small copies of a published package, in its layout, with times that follow a law."""

import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

MODULE, RELEASE = "aiconfigurator_core", "0.12.0"
DATA = f"{MODULE}/systems/data"
TFLOPS, GBS = 1000.0, 4000.0
SHAPES = ((1024, 1024), (2048, 1024), (1024, 2048), (4096, 2048), (8192, 16384))
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)


def gemm_ms(m: int, n: int, k: int, item: int = 2) -> float:
    """Four us, and the longer of compute and memory."""
    work, moved = 2.0 * m * n * k / (TFLOPS * 1e12), (item * n * k + 2.0 * m * (n + k)) / (GBS * 1e9)
    return 4e-3 + 1e3 * max(work, moved)


def gemm(shapes: Sequence[tuple[int, int]] = SHAPES) -> list[dict[str, object]]:
    """Products in two element types."""
    return [
        {"gemm_dtype": dtype, "kernel_source": "any", "m": m, "n": n, "k": k, "latency": gemm_ms(m, n, k, item)}
        for dtype, item in (("bfloat16", 2), ("fp8", 1))
        for n, k in shapes
        for m in ROWS
    ]


def attention(phase: str, backend: str = "vllm_flash_attn_fa3") -> list[dict[str, object]]:
    """Attention of 8 heads of 64 over 2 KV heads: us by the rows that are read."""
    batches = [(b, 1, cached) for b in (1, 2, 8, 32, 128) for cached in (15, 127, 1023, 4095)]
    if phase == "context":
        batches = [(b, new, 0) for b in (1, 2, 4) for new in (16, 128, 512, 2048)]
    common = {"kernel_source": backend, "attn_dtype": "bfloat16", "kv_cache_dtype": "bfloat16", "window_size": 0}
    heads = {"num_heads": 8, "num_key_value_heads": 2, "head_dim": 64}
    return [
        {**common, **heads, "batch_size": b, "isl": new, "step": cached, "latency": 5e-3 + 1e-6 * b * (new + cached)}
        for b, new, cached in batches
    ]


def moe() -> list[dict[str, object]]:
    """A mixture of 8 experts, even and skewed."""
    sizes = {"hidden_size": 512, "inter_size": 1024, "topk": 2, "num_experts": 8, "moe_tp_size": 1, "moe_ep_size": 1}
    return [
        {
            **sizes,
            "moe_dtype": "bfloat16",
            "kernel_source": "vllm_unquantizedfusedmoe_triton_tritonexperts",
            "num_tokens": tokens,
            "distribution": routing,
            "latency": times * (1e-2 + 1e-5 * tokens),
        }
        for routing, times in (("balanced", 1.0), ("power_law_1.2", 3.0))
        for tokens in ROWS
    ]


def all_reduce(us: float = 4.0) -> list[dict[str, object]]:
    """All-reduce between two GPUs, in graphs and not."""
    return [
        {
            "allreduce_dtype": "bfloat16",
            "num_gpus": 2,
            "message_size": 2**power,
            "backend": backend,
            "latency": slower * (us * 1e-3 + 2.0 * 2**power / 400e9 * 1e3),
        }
        for backend, slower in (("vllm_graph", 1.0), ("vllm_eager", 4.0))
        for power in range(7, 30)
    ]


def parquet(rows: Sequence[Mapping[str, object]]) -> bytes:
    """The content of a Parquet file."""
    content = io.BytesIO()
    pl.DataFrame(rows).write_parquet(content)
    return content.getvalue()


def tables(system: str = "b200_sxm", release: str = "0.24.0") -> dict[str, bytes]:
    """Files of one system by their names."""
    folder = f"{DATA}/{system}"
    return {
        f"{folder}/gemm/vllm/{release}/gemm_perf.parquet": parquet(gemm()),
        f"{folder}/attention/vllm/{release}/context_attention_perf.parquet": parquet(attention("context")),
        f"{folder}/attention/vllm/{release}/generation_attention_perf.parquet": parquet(attention("generation")),
        f"{folder}/moe/vllm/{release}/moe_perf.parquet": parquet(moe()),
        f"{folder}/comm/vllm/0.22.0/custom_allreduce_perf.parquet": parquet(all_reduce()),
        f"{folder}/comm/vllm/0.30.0/custom_allreduce_perf.parquet": parquet(all_reduce(9.0)),
    }


def wheel(path: Path, files: Mapping[str, bytes], release: str = RELEASE, module: str = MODULE) -> Path:
    """Write a wheel."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{module}-{release}.dist-info/METADATA", "Metadata-Version: 2.4\n")
        archive.writestr(f"{module}/__init__.py", "")
        for name, content in files.items():
            archive.writestr(name, content)
    return path
