"""Step time of one model: operations by their formulas, padded as the engine pads them, with the host around them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dooly.batch import MODES, POWER_LIMIT, Batch, BatchColumns, GraphMode, StepBatch, StepCost
from dooly.fit.formula import Formula
from dooly.fit.observation import Routing, experts_reached
from dooly.ir.operation import Operation
from dooly.ir.opset import Kind
from dooly.predict.breakdown import Breakdown, Row
from dooly.predict.graphs import GraphPlan
from dooly.predict.host import PLANNED_LATE, HostModel
from dooly.predict.power import FEWEST_TOKENS, NO_LIMIT, PowerLimit
from dooly.predict.step_ops import GRID, Work, collect_work, on_grid
from dooly.predict.table import SizeTable

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
    launch_us: Column
    lead_us: Column

    def __len__(self) -> int:
        return len(self.total_us)


class StepModel:
    """Predicts steps of one model on one machine.

    On a CPU the host issues an operation and waits for it, so the parts of a step add up:
    ``total = before + (sum of operations + dispatch) + after``.  On a GPU it queues the operations, which takes it some
    time of its own, and waits for the last: ``total = before + max(launch, lead + sum of operations) + after``, where
    the lead is the time until the device starts (one that is busy with the step before copies inputs first, which only
    simulations of overlapping steps ask for); attention that is planned late (`PLANNED_LATE`) is planned at the end
    of what comes before, and has no lead.  In steps of many tokens the sum of operations is as long as the device's
    power limit makes it, where that is known (`PowerLimit`); the device is rested when a step begins.  Without a host
    (None: its time was not measured) steps are the sum of operations, and every host part is zero.

    Where CUDA graphs are replayed, all but attention works on as many tokens as the step is padded to.

    Work whose latency one request symbol decides is tabulated over that symbol as it is asked for; all but attention is
    remembered for what decides it; attention is computed.
    """

    def __init__(
        self,
        work: Sequence[Work],
        host: HostModel | None,
        graphs: GraphPlan | None = None,
        power: PowerLimit = NO_LIMIT,
    ) -> None:
        self.work, self.power = tuple(work), power
        late = [each for each in self.work if each.operation.attr("backend") in PLANNED_LATE]
        plans = [each.formula.plan_us for each in late if host is not None]
        self._plan_us = _grid(sum(decodes for decodes, _ in plans)), _grid(sum(prompts for _, prompts in plans))
        if host is not None and any(self._plan_us):
            host = replace(host, lead=None)
        self.host, self.graphs = host, graphs
        self.launches = sum(each.count for each in self.work)
        self._queued, self._slower_us, self._mixtures = _queueing(self.work, host)
        flashinfer = sum(each.count for each in self.work if each.operation.attr("backend") == "FLASHINFER")
        self._called_twice = 0 if host is None or host.flashinfer is None else flashinfer
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
        self._around_one = lru_cache(maxsize=65536)(self._around_attention)
        self._dispatch_us, self._dispatch_outside = 0.0, False
        if host is not None and host.dispatch is not None:
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
        graphs: GraphPlan | None = None,
    ) -> "StepModel":
        """From an operation table and formulas by signature, the host's among them unless `device_only`.

        Args:
            graphs: CUDA graphs that the engine captured; None where nothing is padded.

        Raises:
            PredictError: a formula is missing; names the operation and the command that measures it.
        """
        work = collect_work(operations, formulas, model, routing)
        return cls(work, None if device_only else HostModel.of(formulas), graphs, PowerLimit.of(formulas))

    def step_time(self, batch: StepBatch) -> StepCost:
        """Cost of one step."""
        tokens, requests = batch.tokens, batch.count
        prompts = _prompts(batch)
        around = self._around_one(tokens, requests, prompts, batch.logits, self._calls_twice(batch, prompts))
        before, plan, launch, lead, between, device, after, outside = around
        for window, group in self._attention:
            values = batch.attention(window)
            for each in group:
                latency, beyond = each.total_us_one(values)
                device += latency
                outside = outside or beyond
        device, work, beyond = self.limited(device, tokens, requests)
        total = before + max(launch, lead + device) + after
        return StepCost(before, device, after, total, outside or beyond, launch, lead, between, plan, work)

    def _around_attention(
        self, tokens: int, requests: int, prompts: int, logits: int, twice: bool
    ) -> tuple[float, float, float, float, float, float, float, bool]:
        """us of `StepCost` before the model, its plan, launch, lead, between, of the device, and after; whether
        extrapolated."""
        padded, launch, lead, between, outside = self._launch(tokens, requests, twice)
        before, plan, after, beyond = self._around(tokens, requests, prompts)
        sizes = {"T": padded, "R": requests, "L": logits}
        found = [(self._dispatch_us, self._dispatch_outside), (0.0, outside or beyond)]
        found += [table.at(sizes[axis]) for axis, table in self._tables]
        found += [each.total_us_one(sizes) for each in self._sized]
        device, outside = sum(latency for latency, _ in found), any(beyond for _, beyond in found)
        return before, plan, launch, lead, between, device, after, outside

    def limited(self, work_us: float, tokens: int, requests: int) -> tuple[float, float, bool]:
        """us of the device from a rest on for what its operations take, `StepCost.work_us`, and if extrapolated."""
        if not self.power.acts_on(tokens, requests):
            return work_us, 0.0, False
        device_us, beyond = self.power.one(work_us)
        return device_us, work_us, beyond

    def padded(self, tokens: int, requests: int) -> int:
        """Tokens that all but attention works on."""
        return self._padded(tokens, requests)[1]

    def _padded(self, tokens: int, requests: int) -> tuple[GraphMode, int]:
        return ("NONE", tokens) if self.graphs is None else self.graphs.at(tokens, requests)

    def _calls_twice(self, batch: StepBatch, prompts: int) -> bool:
        """Whether each FlashInfer attention is called twice: for requests that decode, and for prompts."""
        return bool(self._called_twice) and 0 < prompts < batch.count

    def _launch(self, tokens: int, requests: int, twice: bool) -> tuple[int, float, float, float, bool]:
        """Padded tokens; us of queueing, until an idle device starts, until a busy one does; whether extrapolated.

        Args:
            twice: as `_calls_twice`.
        """
        mode, padded = self._padded(tokens, requests)
        if self.host is None or not self.host.launch:
            return padded, 0.0, 0.0, 0.0, False
        place = MODES.index(mode)
        launch, outside = self.host.launch_one(place, self._queued[place], requests)
        if self._mixtures and mode == "NONE":
            experts, further = self.host.experts_one(self._mixtures, requests)
            launch, outside = launch + experts, outside or further
        if twice and mode != "FULL":
            more, further = self.host.flashinfer_one(requests)
            launch, outside = launch + self._called_twice * more, outside or further
        lead, beyond = self.host.lead_one(place, requests)
        between, _ = self.host.between_one(requests)  # no part of the step's total, which is what is extrapolated
        return padded, _grid(launch + self._slower_us[place]), _grid(lead), _grid(between), outside or beyond

    def _around(self, tokens: int, requests: int, prompts: int) -> tuple[float, float, float, bool]:
        """Host time before the model, its last part, which plans late attention, and after it, us; if extrapolated."""
        if self.host is None:
            return 0.0, 0.0, 0.0, False
        before, after, outside = self.host.one(tokens, requests, prompts)
        of_decodes, of_prompts = self._plan_us
        plan = of_prompts if tokens > requests else of_decodes
        return _grid(before) + plan, plan, _grid(after), outside

    def step_times(self, batches: Sequence[Batch] | BatchColumns) -> StepTimes:
        """Costs of many steps at once; at least one."""
        columns = batches if isinstance(batches, BatchColumns) else BatchColumns.of(batches)
        tokens, requests = columns.tokens, np.diff(columns.starts, append=len(columns.new))
        modes, padded = np.full(len(columns), MODES.index("NONE")), tokens
        if self.graphs is not None:
            modes, padded = self.graphs.many(tokens, requests)
        sizes = {"T": padded, "R": requests, "L": columns.logits}
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
        heavy = (tokens > requests) & (tokens >= FEWEST_TOKENS)
        limited, beyond = self.power.many(device)
        device, outside = np.where(heavy, limited, device), outside | (beyond & heavy)
        nothing = np.zeros(len(columns))
        if self.host is None:
            return StepTimes(nothing, device, nothing, device, outside, nothing, nothing)
        launch = lead = nothing
        if self.host.launch:
            launch, beyond = self.host.launch_many(modes, self._queued, floats["R"])
            lead, late = self.host.lead_many(modes, floats["R"])
            if self._mixtures:
                alone = modes == MODES.index("NONE")
                experts, further = self.host.experts_many(self._mixtures, floats["R"])
                launch, beyond = launch + experts * alone, beyond | (further & alone)
            if self._called_twice:
                in_prompts = groups[-1][0]["Tp"]  # of an attention, as all of FlashInfer's are
                twice = (modes != MODES.index("FULL")) & (in_prompts > 0) & (in_prompts < tokens)
                more, further = self.host.flashinfer_many(floats["R"])
                launch, beyond = launch + self._called_twice * more * twice, beyond | (further & twice)
            launch, lead = on_grid(launch + np.array(self._slower_us)[modes]), on_grid(lead)
            outside = outside | beyond | late
        prompts = columns.prompts.astype(np.float64)
        before, after, beyond = self.host.many(tokens.astype(np.float64), floats["R"], prompts)
        of_decodes, of_prompts = self._plan_us
        before, after = on_grid(before) + np.where(tokens > requests, of_prompts, of_decodes), on_grid(after)
        total = before + np.maximum(launch, lead + device) + after
        return StepTimes(before, device, after, total, outside | beyond, launch, lead)

    def breakdown(self, batch: Batch) -> Breakdown:
        """The step by operation and host part; rows add up to exactly the total.

        On a GPU the row ``host_launch`` is what the device waits for the host, not the whole time of queueing.
        """
        prompts = _prompts(batch)
        padded, launch, lead, between, late = self._launch(batch.tokens, batch.count, self._calls_twice(batch, prompts))
        parts: list[tuple[str, str, str, int, float, bool]] = []
        for each in self.work:
            values = {**batch.attention(each.subject.window), "L": batch.logits}
            if not each.operation.kind.stateful:
                values["T"] = padded
            total, beyond = each.total_us_one(values)
            operation = each.operation
            parts.append((operation.name, operation.signature, operation.kind.value, each.count, total, beyond))
        before, plan, after, outside = self._around(batch.tokens, batch.count, prompts)
        work = sum(part[4] for part in parts) + self._dispatch_us
        device, limited, beyond = self.limited(work, batch.tokens, batch.count)
        if limited:
            parts.append((POWER_LIMIT, POWER_LIMIT, "power", 1, device - work, beyond))
        wait = max(launch - device, lead)
        if self.host is not None:
            dispatch = "host", self.launches, self._dispatch_us, self._dispatch_outside
            meanwhile = ("host_dispatch", "host_dispatch", *dispatch)
            if self.host.launch:
                meanwhile = ("host_launch", "host_launch", "host", 1, wait, late)
            parts = [
                ("host_before", "host_before", "host", 1, before, outside),
                *parts,
                meanwhile,
                ("host_after", "host_after", "host", 1, after, outside),
            ]
        extrapolated = any(part[5] for part in parts)
        total = before + device + wait + after
        cost = StepCost(before, device, after, total, extrapolated, launch, lead, between, plan, limited)
        return Breakdown(
            tuple(
                Row(name, signature, kind, count, total / count, total, total / cost.total_us, extrapolated)
                for name, signature, kind, count, total, extrapolated in parts
            ),
            cost,
        )


_SAME = 1.25
"""Up to this factor two times to queue a call are those of one code: so much a host's speed changes meanwhile."""


def _queueing(work: Sequence[Work], host: HostModel | None) -> tuple[tuple[int, ...], tuple[float, ...], int]:
    """Operations that the host queues one by one by place in `MODES`, and us that some take beyond the usual; and
    the number of mixtures of experts of which the host knows what they take.

    Experts, which are many kernels, are not among the operations.  Where the host was not measured with any, they take
    what they take by themselves, if that is known.  Attention takes longer by as much as it does by itself than that of
    the host's load, beyond what the host's speed changes by; FlashInfer's not where the host was measured with it.
    """
    launches = sum(each.count for each in work)
    attention = [each for each in work if each.operation.kind.stateful]
    pieces = sum(each.count for each in attention)
    if host is None or not host.launch:
        return (launches, pieces, launches), (0.0, 0.0, 0.0), 0
    known = () if host.flashinfer is None else ("FLASHINFER",)
    by_themselves = [each for each in attention if each.operation.attr("backend") not in known]
    measured = host.experts is not None
    experts = [each for each in work if each.operation.kind is Kind.MOE and (measured or each.formula.queued_us)]
    mixtures = sum(each.count for each in experts)
    alone_us = 0.0 if measured else sum(each.count * each.formula.queued_us for each in experts)

    def beyond_us(usual_us: float) -> float:
        if not usual_us:
            return 0.0
        return sum(each.count * max(0.0, each.formula.queued_us - _SAME * usual_us) for each in by_themselves)

    _, in_pieces, one_by_one = (beyond_us(launch.queued_us) for launch in host.launch)
    queued = launches, pieces, launches - mixtures
    return queued, (0.0, in_pieces, one_by_one + alone_us), mixtures if measured else 0


def _prompts(batch: StepBatch) -> int:
    """Requests with more than one new token."""
    return 0 if batch.tokens == batch.count else batch.attention()["Rp"]


def _grid(latency_us: float) -> float:
    """One number on the grid of `on_grid`."""
    return round(latency_us * GRID) / GRID
