"""Step time of one model: operations by their formulas, dispatch between them, the host around them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dooly.batch import Batch, BatchColumns, StepBatch, StepCost
from dooly.fit.formula import Formula
from dooly.fit.observation import Routing, experts_reached
from dooly.ir.operation import Operation
from dooly.predict.breakdown import Breakdown, Row
from dooly.predict.host import HostModel
from dooly.predict.table import SizeTable
from dooly.predict.work import GRID, Work, collect_work, on_grid

__all__ = ["StepModel", "StepTimes"]

Column = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class StepTimes:
    """`StepCost` of many steps, float64[steps] each in us; `extrapolated` bool[steps]."""

    host_before_us: Column
    device_us: Column
    host_after_us: Column
    total_us: Column
    extrapolated: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.total_us)


class StepModel:
    """Predicts steps of one model on one machine.

    The host issues an operation and waits for it (the CPU platform, synchronous scheduling), so the parts add up:
    ``total = before + (sum of operations + dispatch) + after``.  Without a host (None: its time was not measured) steps
    are the sum of operations, and every host part is zero.

    Work whose latency one request symbol decides is tabulated over that symbol as it is asked for, work that several
    decide is remembered; attention is computed.
    """

    def __init__(self, work: Sequence[Work], host: HostModel | None) -> None:
        self.work = tuple(work)
        self.host = host
        self.launches = sum(each.count for each in self.work)
        self._tables = [
            (axis, SizeTable(axis, [each for each in self.work if each.axis == axis]))
            for axis in sorted({each.axis for each in self.work if each.axis is not None})
        ]
        windows: dict[int | None, list[Work]] = {}
        for each in self.work:
            if each.operation.kind.stateful:
                windows.setdefault(each.subject.window, []).append(each)
        self._attention = list(windows.items())
        self._sized = [each for each in self.work if each.axis is None and not each.operation.kind.stateful]
        self._sized_one = lru_cache(maxsize=65536)(self._sum_sized)
        self._host_one = lru_cache(maxsize=65536)((lambda *_: (0.0, 0.0, False)) if host is None else host.one)
        self._dispatch_us, self._dispatch_outside = 0.0, False
        if host is not None:
            dispatch, self._dispatch_outside = host.dispatch.predict_one({"N": float(self.launches)})
            self._dispatch_us = _grid(dispatch)

    @classmethod
    def build(
        cls,
        operations: Iterable[Operation],
        formulas: Mapping[str, Formula],
        model: str,
        routing: Routing = experts_reached,
        *,
        device_only: bool = False,
    ) -> "StepModel":
        """From an operation table and formulas by signature, the host's among them unless `device_only`.

        Raises:
            PredictError: a formula is missing; names the operation and the command that measures it.
        """
        work = collect_work(operations, formulas, model, routing)
        return cls(work, None if device_only else HostModel.of(formulas))

    def step_time(self, batch: StepBatch) -> StepCost:
        """Cost of one step."""
        tokens, requests = batch.tokens, batch.count
        sizes = {"T": tokens, "R": requests, "L": batch.logits}
        device, outside = self._dispatch_us, self._dispatch_outside
        for axis, table in self._tables:
            latency, beyond = table.at(sizes[axis])
            device += latency
            outside = outside or beyond
        latency, beyond = self._sized_one(tokens, requests, batch.logits)
        device += latency
        outside = outside or beyond
        for window, group in self._attention:
            values = batch.attention(window)
            for each in group:
                latency, beyond = each.total_us_one(values)
                device += latency
                outside = outside or beyond
        before, after, beyond = self._host_one(tokens, requests)
        before, after = _grid(before), _grid(after)
        return StepCost(before, device, after, before + device + after, outside or beyond)

    def _sum_sized(self, tokens: int, requests: int, logits: int) -> tuple[float, bool]:
        """Work that several sizes decide together."""
        totals = [each.total_us_one({"T": tokens, "R": requests, "L": logits}) for each in self._sized]
        return sum(latency for latency, _ in totals), any(beyond for _, beyond in totals)

    def step_times(self, batches: Sequence[Batch] | BatchColumns) -> StepTimes:
        """Costs of many steps at once; at least one."""
        columns = batches if isinstance(batches, BatchColumns) else BatchColumns.of(batches)
        tokens, requests = columns.tokens, np.diff(columns.starts, append=len(columns.new))
        sizes = {"T": tokens, "R": requests, "L": columns.logits}
        device = np.full(len(columns), self._dispatch_us)
        outside = np.full(len(columns), self._dispatch_outside)
        for axis, table in self._tables:
            latency, beyond = table.many(sizes[axis])
            device += latency
            outside |= beyond
        floats = {name: column.astype(np.float64) for name, column in sizes.items()}
        groups = [(floats, self._sized)] + [(columns.attention(window), group) for window, group in self._attention]
        for values, group in groups:
            for each in group:
                latency, beyond = each.total_us(values)
                device += latency
                outside |= beyond
        if self.host is None:
            nothing = np.zeros(len(columns))
            return StepTimes(nothing, device, nothing, device, outside)
        before, after, beyond = self.host.many(floats["T"], floats["R"])
        before, after = on_grid(before), on_grid(after)
        return StepTimes(before, device, after, before + device + after, outside | beyond)

    def breakdown(self, batch: Batch) -> Breakdown:
        """The step by operation and host part; rows add up to exactly the total."""
        parts: list[tuple[str, str, str, int, float, bool]] = []
        for each in self.work:
            values = {**batch.attention(each.subject.window), "L": batch.logits}
            total, beyond = each.total_us_one(values)
            operation = each.operation
            parts.append((operation.name, operation.signature, operation.kind.value, each.count, total, beyond))
        before, after, outside = self._host_one(batch.tokens, len(batch.requests))
        before, after = _grid(before), _grid(after)
        device = sum(part[4] for part in parts) + self._dispatch_us
        if self.host is not None:
            parts = [
                ("host_before", "host_before", "host", 1, before, outside),
                *parts,
                ("host_dispatch", "host_dispatch", "host", self.launches, self._dispatch_us, self._dispatch_outside),
                ("host_after", "host_after", "host", 1, after, outside),
            ]
        cost = StepCost(before, device, after, before + device + after, any(part[5] for part in parts))
        return Breakdown(
            tuple(
                Row(name, signature, kind, count, total / count, total, total / cost.total_us, extrapolated)
                for name, signature, kind, count, total, extrapolated in parts
            ),
            cost,
        )


def _grid(latency_us: float) -> float:
    """One number on the grid of `on_grid`."""
    return round(latency_us * GRID) / GRID
