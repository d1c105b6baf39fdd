"""Write docs/results/beside-aiconfigurator.md: python benchmarks/aiconfigurator_tables.py FOLDER-OF-THE-PACKAGE

Compares latencies that ship with dooly with those in the tables of an installed `aiconfigurator-core`, where both have
the same work.  A report: their figures are used for nothing else, and only ratios of them are written down.
"""

import argparse
import math
import sys
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import distributions
from pathlib import Path

import polars as pl

from dooly.database import Point, Record, Status
from dooly.database.difference import agreement
from dooly.database.exchange import read_parquet
from dooly.errors import DoolyError
from dooly.files import write_text
from dooly.ir import Expr, Operation, parse_program
from dooly.report import Column, Table, markdown
from dooly.workspace.shipped import DATA

__all__ = ["main"]

PAGE = Path(__file__).resolve().parent.parent / "docs" / "results" / "beside-aiconfigurator.md"
BACKEND = "vllm/0.24.0"
FLASH = "vllm_flash_attn_fa3"
TRITON_EXPERTS = "vllm_unquantizedfusedmoe_triton_tritonexperts"

HEAD = """# Beside AIConfigurator's tables

Written by `python benchmarks/aiconfigurator_tables.py`, which takes the path of an installed `aiconfigurator-core`
{version}. Its tables ({backend}) were measured by NVIDIA on GPUs of the same kind; nothing of them is an input here.

A ratio is dooly's latency over theirs, at points that ship with dooly (fitted, held-out and those of the fixed grid)
and have a partner in the tables: the same sizes, or sizes between two entries of one curve (GEMM over rows, prefill
over length, decode over context, experts over tokens), on a straight line in logarithms. Matrices of other shapes
than those in the tables are left out.

Long products draw a GPU to its power limit, and its clock falls. The H200's are measured with rests between samples,
at full clocks; the H100's were measured before that, one after the other. Points of 512 rows and more are therefore
told apart by the SM clock that was noted beside them. What the clock of their runs was is not known.

Other differences: their engine is vLLM 0.24.0, ours 0.26.0; they take means, dooly medians; their KV-cache blocks
hold 64 tokens, ours 16; their attention leaves the writing of the KV cache out (for FlashAttention), ours has it;
their GEMMs are cycled over six copies of the weights in one graph, ours over as many as exceed the L2 cache. Between
two entries a straight line misses the steps that tiles make, so that rows of the same size are the better comparison.

Attention is measured with cold caches here, as a step finds it. That is what makes the one of few tokens longer: the
same layers repeated by themselves, so that the second finds its code and tables in the cache, were measured beside it
(H200, 2026-11-29, FLASH_ATTN, 16 heads of 128 with 2 and with 4 KV heads). Prompts of 128, 256 and 512 tokens take
1.09, 1.24 to 1.27 and 1.34 to 1.37 of their latency with cold caches, 0.87, 0.98 to 0.99 and 1.04 to 1.06 with warm
ones; 1,024 tokens 1.06 and 0.91; a decode over 1,024 and 4,096 tokens 1.06 to 1.10 and 0.86 to 0.92. Writing the KV
cache is 1.6 to 5 us of that.
Experts are compared where every expert is reached that can be, with their `balanced` distribution; the choice of
experts for each token belongs to the operation in dooly.
"""

_COLUMNS = (
    Column("name", "class"),
    Column("points", "points", ",d"),
    Column("exact", "same size", ",d"),
    Column("p5", "5 %", ".3f"),
    Column("median", "median", ".3f"),
    Column("p95", "95 %", ".3f"),
    Column("within_5", "within 5 % (%)", ".0f"),
    Column("within_10", "within 10 % (%)", ".0f"),
)

Curve = Mapping[int, float]
Match = tuple[str, float, bool]
"""Class, ratio ours over theirs, whether at the same size."""

LONG_GEMM = "GEMM, 512 rows and more"
FAST_MHZ = 1900.0


def main(argv: Sequence[str] | None = None) -> int:
    """Read the tables and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("core", type=Path, help="folder of the installed package aiconfigurator_core")
    parser.add_argument("-o", "--output", default=str(PAGE), metavar="FILE")
    args = parser.parse_args(argv)
    tables = args.core / "systems" / "data"
    if not tables.is_dir():
        raise SystemExit(f"{args.core}: no systems/data there; expected an installed aiconfigurator_core")
    found = [each.version for each in distributions(path=[str(args.core.parent)]) if each.name == "aiconfigurator-core"]
    parts = [HEAD.format(version=found[0] if found else "of unknown version", backend=BACKEND)]
    for path in sorted(DATA.glob("*.parquet")):
        parts += [f"## {path.stem.upper()}\n", markdown(_table(path.stem, tables / f"{path.stem}_sxm"))]
    try:
        write_text(args.output, "\n".join(parts))
    except DoolyError as error:
        raise SystemExit(str(error)) from error
    return 0


def _table(platform: str, system: Path) -> Table:
    found: dict[str, list[Match]] = {}
    families = (_Gemm(system), _Attention(system), _Experts(system))
    for record in _records(platform):
        (operation,) = parse_program(record.operation.text).operations
        for family in families:
            match = family.match(operation, record.measurement.point, record.measurement.latency_us)
            if match is not None:
                for name in _names(match, record.measurement.samples.clock_mhz):
                    found.setdefault(name, []).append(match)
    rows = [
        {
            "name": name,
            "exact": sum(exact for _, _, exact in found[name]),
            **asdict(agreement([ratio for _, ratio, _ in found[name]])),
        }
        for name in sorted(found)
    ]
    return Table("dooly's latency over AIConfigurator's", _COLUMNS, rows)


def _names(match: Match, clock_mhz: float | None) -> list[str]:
    """The class, and finer ones of it for long products: by clock, and at the same size only."""
    name, _, exact = match
    if name != LONG_GEMM or clock_mhz is None:
        return [name]
    clock = f"{FAST_MHZ:,.0f} MHz and more" if clock_mhz >= FAST_MHZ else f"below {FAST_MHZ:,.0f} MHz"
    return [name, f"{name}, {clock}", *([f"{name}, same size, {clock}"] if exact else [])]


def _records(platform: str) -> Iterator[Record]:
    """Points of one GPU that ship, each once; the operation is parsed by the caller."""
    paths = [DATA / f"{platform}.parquet"]
    paths += [
        path
        for name in ("heldout", "vidur-grid")
        if (path := DATA / "evaluation" / f"{platform}-{name}.parquet").exists()
    ]
    seen: set[tuple[str, Point]] = set()
    for path in paths:
        for record in read_parquet(path):
            key = record.operation.signature, record.measurement.point
            if (
                record.measurement.status is Status.OK
                and key not in seen
                and not record.operation.text.startswith("pseudo")
            ):
                seen.add(key)
                yield record


def _on_curve(curve: Curve, size: int) -> tuple[float, bool] | None:
    """us at a size of a curve, or between two; None outside."""
    if size in curve:
        return curve[size], True
    sizes = sorted(curve)
    place = bisect_left(sizes, size)
    if not 0 < place < len(sizes):
        return None
    low, high = sizes[place - 1], sizes[place]
    share = math.log(size / low) / math.log(high / low)
    return curve[low] ** (1 - share) * curve[high] ** share, False


def _curves(frame: pl.DataFrame, keys: Sequence[str], along: str) -> dict[tuple[int, ...], dict[int, float]]:
    """us along one column for each combination of the others; the tables hold ms."""
    curves: dict[tuple[int, ...], dict[int, float]] = {}
    for *key, size, latency in frame.select(*keys, along, "latency").iter_rows():
        curves.setdefault(tuple(key), {})[size] = 1e3 * latency
    return curves


def _read(system: Path, family: str, table: str) -> pl.DataFrame:
    path = system / family / BACKEND / f"{table}_perf.parquet"
    if not path.exists():
        raise SystemExit(f"{path}: no such table in this version of aiconfigurator-core")
    return pl.read_parquet(path)


def _matched(name: str, curve: Curve | None, size: int, latency_us: float) -> Match | None:
    theirs = None if curve is None else _on_curve(curve, size)
    return None if theirs is None else (name, latency_us / theirs[0], theirs[1])


def _number(operation: Operation, name: str) -> int:
    value = operation.attr(name)
    return int(value) if isinstance(value, Expr | int) else 0


class _Gemm:
    """bf16 products over rows."""

    def __init__(self, system: Path) -> None:
        frame = _read(system, "gemm", "gemm").filter(pl.col("gemm_dtype") == "bfloat16")
        self._curves = _curves(frame, ("n", "k"), "m")

    def match(self, operation: Operation, point: Point, latency_us: float) -> Match | None:
        if operation.target != "linear" or operation.operands[0].dtype != "bf16":
            return None
        n, k = (int(dim) for dim in operation.operands[1].shape)
        rows = point.axes["T"]
        name = (
            "GEMM, 512 rows and more"
            if rows >= 512
            else "GEMM, 64 to 511 rows"
            if rows >= 64
            else "GEMM, below 64 rows"
        )
        return _matched(name, self._curves.get((n, k)), rows, latency_us)


class _Attention:
    """FlashAttention 3 over requests that are all alike: prompts without history, or one new token each."""

    def __init__(self, system: Path) -> None:
        kept = (pl.col("kv_cache_dtype") == "bfloat16") & (pl.col("kernel_source") == FLASH)
        keys = ("num_heads", "num_key_value_heads", "head_dim", "window_size", "batch_size")
        self._prefill = _curves(_read(system, "attention", "context_attention").filter(kept), keys, "isl")
        self._decode = _curves(_read(system, "attention", "generation_attention").filter(kept), keys, "step")

    def match(self, operation: Operation, point: Point, latency_us: float) -> Match | None:
        if operation.attr("backend") != "FLASH_ATTN" or operation.target != "attention" or len(point.requests) != 1:
            return None
        ((new, cached, count),) = point.requests
        heads = (_number(operation, "heads"), _number(operation, "kv_heads"), _number(operation, "head_size"))
        key = (*heads, _number(operation, "window"), count)
        if cached == 0 and new > 1:
            size = "1,024 tokens and more" if new * count >= 1024 else "below 1,024 tokens"
            return _matched(f"prefill attention, {size}", self._prefill.get(key), new, latency_us)
        if new == 1 and cached > 0:
            size = "16,384 rows of KV cache and more" if cached * count >= 16384 else "below 16,384 rows of KV cache"
            return _matched(f"decode attention, {size}", self._decode.get(key), cached, latency_us)
        return None


class _Experts:
    """Unquantized Triton experts, every expert reached that can be."""

    def __init__(self, system: Path) -> None:
        kept = (pl.col("kernel_source") == TRITON_EXPERTS) & (pl.col("distribution") == "balanced")
        kept &= (pl.col("moe_dtype") == "bfloat16") & (pl.col("moe_ep_size") == 1)
        frame = _read(system, "moe", "moe").filter(kept).with_columns(pl.col("inter_size") // pl.col("moe_tp_size"))
        self._curves = _curves(frame, ("hidden_size", "inter_size", "topk", "num_experts"), "num_tokens")

    def match(self, operation: Operation, point: Point, latency_us: float) -> Match | None:
        if operation.target != "moe" or operation.attr("backend") != "TRITON":
            return None
        experts, top_k = _number(operation, "experts"), _number(operation, "top_k")
        tokens = point.axes["T"]
        if point.axes["A"] < min(experts, tokens * top_k):
            return None
        key = (_number(operation, "hidden"), _number(operation, "intermediate"), top_k, experts)
        return _matched("experts", self._curves.get(key), tokens, latency_us)


if __name__ == "__main__":
    sys.exit(main())
