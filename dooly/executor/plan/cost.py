"""The cost of measuring, before anything is measured: a rough roofline, corrected by what the database holds."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dooly.batch import Batch
from dooly.database import Measurement, Point
from dooly.executor.tensors import copies_for
from dooly.executor.timing.cpu import Precision
from dooly.hardware.machine import Machine
from dooly.ir import Expr, Kind, Operation, evaluate

__all__ = ["CostModel"]

_GFLOPS_PER_THREAD: Mapping[str, tuple[float, float]] = {
    "amx_tile": (60.0, 400.0),
    "avx512_bf16": (60.0, 100.0),
    "avx512f": (60.0, 30.0),
    "avx2": (25.0, 8.0),
}
"""Rough rates by instruction set: (f32, 16-bit)."""
_GFLOPS_ELSEWHERE = (10.0, 10.0)
_BUILD_S = {Kind.GEMM: 0.3, Kind.MOE: 0.8, Kind.ATTENTION: 0.3}


@dataclass(frozen=True)
class _Rates:
    """Rough rates of a device.

    Fields:
        gflops: (f32, 16-bit).
        gb_per_s: memory.
        link_gb_per_s: between ranks.
        launch_us: least time of a call.
        build_gb_per_s: weights made, scaled and packed: several passes over memory.
        region_build_s: seconds to set a region up; on a GPU it is compiled.
        point_s: seconds per point besides its samples; on a GPU with the rest before them.
    """

    gflops: tuple[float, float]
    gb_per_s: float
    link_gb_per_s: float
    launch_us: float
    build_gb_per_s: float
    region_build_s: float
    point_s: float


def _rates(machine: Machine) -> _Rates:
    if machine.torch_device == "cuda":
        return _Rates((40e3, 600e3), 3000.0, 300.0, 3.0, 200.0, 3.0, 0.04)
    per_thread = _GFLOPS_PER_THREAD.get(machine.isa, _GFLOPS_ELSEWHERE)
    single, half = (rate * machine.threads for rate in per_thread)
    return _Rates((single, half), 10.0, 1.0, 15.0, 1.0, 0.02, 0.0)


class CostModel:
    """Estimated latencies on one machine, per kind of operation, corrected by measured points as they come in."""

    def __init__(self, machine: Machine) -> None:
        self._rates = _rates(machine)
        self._machine = machine
        self._corrections: dict[Kind, list[float]] = {}

    def learn(self, operation: Operation, measured: Sequence[Measurement]) -> None:
        """Correct later estimates for operations of this kind by measured points of this one."""
        ratios = [m.latency_us / self._roofline_us(operation, m.point) for m in measured]
        self._corrections.setdefault(operation.kind, []).extend(ratios)

    def latency_us(self, operation: Operation, point: Point) -> float:
        """Estimated latency of one call."""
        ratios = self._corrections.get(operation.kind)
        return self._roofline_us(operation, point) * (statistics.median(ratios) if ratios else 1.0)

    def build_s(self, operation: Operation) -> float:
        """Seconds to set an operation up, copies of its weights made and packed."""
        base_s = _BUILD_S.get(operation.kind, self._rates.region_build_s)
        if operation.kind not in (Kind.GEMM, Kind.MOE):
            return base_s
        weights = [type_ for type_ in operation.operands if not any(dim.free_symbols for dim in type_.shape)]
        n_bytes = sum(int(type_.bytes) for type_ in weights)
        return base_s + copies_for(n_bytes, self._machine) * n_bytes / (self._rates.build_gb_per_s * 1e9)

    def point_s(self, operation: Operation, point: Point, precision: Precision) -> float:
        """Estimated seconds of taking one point of an operation that is set up."""
        return self._rates.point_s + precision.cost_s(self.latency_us(operation, point))

    def _roofline_us(self, operation: Operation, point: Point) -> float:
        values = point.axes
        if point.requests:
            window = operation.attr("window")
            values = Batch.of(*point.batch).attention(int(window) if isinstance(window, Expr) else None)
        flops, n_bytes = (float(evaluate(expression, values)) for expression in (operation.flops, operation.bytes))
        dtype = operation.operands[0].dtype if operation.operands else "f32"
        rate = self._rates.gflops[0 if dtype in ("f32", "f64") else 1]
        moved = self._rates.link_gb_per_s if operation.kind is Kind.COLLECTIVE else self._rates.gb_per_s
        return self._rates.launch_us + max(flops / rate, n_bytes / moved) / 1e3
