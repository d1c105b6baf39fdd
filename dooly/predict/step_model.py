"""Step time of one model: operations by their formulas, padded as the engine pads them, with the host around them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dooly.batch import Batch, BatchColumns, StepBatch, StepCost
from dooly.fit.formula import Formula
from dooly.fit.observation import Routing, experts_reached
from dooly.hardware.backends import backend_of
from dooly.host import POWER_LIMIT
from dooly.ir.operation import Operation
from dooly.ir.opset import Kind
from dooly.predict.breakdown import Breakdown, Row
from dooly.predict.graphs import GraphPlan
from dooly.predict.host import HostModel
from dooly.predict.power import NO_LIMIT, PowerLimit
from dooly.predict.sizes import Number, Sizes, sizes_of, sizes_of_many
from dooly.predict.step_ops import Work, collect_work
from dooly.predict.table import SizeTable

__all__ = ["StepModel", "StepParts", "StepTimes"]

Column = NDArray[np.float64]


class StepParts(NamedTuple):
    """Parts of a step, us each: numbers of one step, or columns of many.

    Attributes:
        before, plan, launch, lead, between, after: as in `StepCost`; `before` includes `plan`.
        work: operations at full clocks, on a CPU with the dispatch between them.
        outside: whether any of them is extrapolated.
    """

    before: Number
    plan: Number
    launch: Number
    lead: Number
    between: Number
    work: Number
    after: Number
    outside: Number

    def plus(self, work: Number, outside: Number) -> "StepParts":
        """With further operations."""
        return self._replace(work=self.work + work, outside=self.outside | outside)


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
    simulations of overlapping steps ask for); attention that is planned late (`Backend.planned_late`) is planned at the
    end of what comes before, and has no lead.  In steps of many tokens the sum of operations is as long as the device's
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
        self.work, self.host, self.graphs, self.power = tuple(work), host, graphs, power
        late = [each for each in self.work if backend_of(each.operation.attr("backend")).planned_late]
        plans = [each.formula.plan_us for each in late if host is not None]
        self._plan_us = sum(decodes for decodes, _ in plans), sum(prompts for _, prompts in plans)
        self.launches = sum(each.count for each in self.work)
        self._counts, self._slower_us = _queueing(self.work, host)
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
        self._around_one = lru_cache(maxsize=65536)(self._around)

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
        device: str = "",
    ) -> "StepModel":
        """From an operation table and formulas by signature, the host's among them unless `device_only`.

        Args:
            graphs: CUDA graphs that the engine captured; None where nothing is padded.
            device: its name, which says how it recovers from its power limit.

        Raises:
            PredictError: a formula is missing; names the operation and the command that measures it.
        """
        work = collect_work(operations, formulas, model, routing)
        return cls(work, None if device_only else HostModel.of(formulas), graphs, PowerLimit.of(formulas, device))

    def step_time(self, batch: StepBatch) -> StepCost:
        """Cost of one step."""
        sizes = sizes_of(batch, self.graphs)
        parts = self._around_one(sizes)
        for window, group in self._attention:
            values = batch.attention(window)
            for each in group:
                parts = parts.plus(*each.total_us(values, sizes))
        return self._cost(parts, sizes)

    def step_times(self, batches: Sequence[Batch] | BatchColumns) -> StepTimes:
        """Costs of many steps at once; at least one."""
        columns = batches if isinstance(batches, BatchColumns) else BatchColumns.of(batches)
        sizes = sizes_of_many(columns, self.graphs)
        parts = self._around(sizes)
        for window, group in self._attention:
            values = columns.attention(window)
            for each in group:
                parts = parts.plus(*each.total_us(values, sizes))
        cost = self._cost(parts, sizes)

        def column(of: Number) -> Column:
            return np.broadcast_to(np.asarray(of, dtype=np.float64), len(columns))

        return StepTimes(
            host_before_us=column(cost.host_before_us),
            device_us=column(cost.device_us),
            host_after_us=column(cost.host_after_us),
            total_us=column(cost.total_us),
            extrapolated=np.broadcast_to(np.asarray(cost.extrapolated, dtype=bool), len(columns)),
            launch_us=column(cost.launch_us),
            lead_us=column(cost.lead_us),
        )

    def breakdown(self, batch: Batch) -> Breakdown:
        """The step by operation and host part; rows add up to the total.

        On a GPU the row ``host_launch`` is what the device waits for the host, not the whole time of queueing.
        """
        sizes = sizes_of(batch, self.graphs)
        parts = self._around(sizes)
        rows: list[tuple[str, str, str, int, float, bool]] = []
        for each in self.work:
            stateful, operation = each.operation.kind.stateful, each.operation
            values = batch.attention(each.subject.window) if stateful else sizes.symbols()
            total, beyond = each.total_us(values, sizes)
            if stateful:
                parts = parts.plus(total, beyond)
            rows.append((operation.name, operation.signature, operation.kind.value, each.count, total, beyond))
        cost = self._cost(parts, sizes)
        if cost.work_us:
            beyond = self.power.us(cost.work_us)[1]
            rows.append((POWER_LIMIT, POWER_LIMIT, "power", 1, cost.device_us - cost.work_us, beyond))
        if self.host is not None:
            rows = self._host_rows(self.host, sizes, cost, rows)
        sources = {each.operation.signature: each.formula.source for each in self.work}
        of_host = "" if self.host is None else self.host.source
        return Breakdown(
            tuple(
                Row(
                    *(name, signature, kind, count, total / count, total, total / cost.total_us, extrapolated),
                    source=sources.get(signature, of_host),
                )
                for name, signature, kind, count, total, extrapolated in rows
            ),
            cost,
        )

    def _host_rows(
        self, host: HostModel, sizes: Sizes, cost: StepCost, rows: list[tuple[str, str, str, int, float, bool]]
    ) -> list[tuple[str, str, str, int, float, bool]]:
        """Rows of a breakdown with the host's around them."""
        us = {phase: host.us(phase, sizes, self._counts) for phase in ("before", "launch", "lead", "dispatch", "after")}
        meanwhile = ("host_dispatch", "host_dispatch", "host", self.launches, *us["dispatch"])
        if host.on_gpu:
            wait = max(cost.launch_us - cost.device_us, cost.lead_us)
            meanwhile = ("host_launch", "host_launch", "host", 1, wait, us["launch"][1] or us["lead"][1])
        first = ("host_before", "host_before", "host", 1, cost.host_before_us, us["before"][1])
        last = ("host_after", "host_after", "host", 1, cost.host_after_us, us["after"][1])
        return [first, *rows, meanwhile, last]

    def _around(self, sizes: Sizes) -> StepParts:
        """All parts of a step without its attention."""
        work, outside = 0.0, False
        symbols = sizes.symbols()
        found = [table.at(symbols[axis]) for axis, table in self._tables]
        for us, beyond in (*found, *(each.total_us(symbols, sizes) for each in self._sized)):
            work, outside = work + us, outside | beyond
        host = self.host
        if host is None:
            return StepParts(0.0, 0.0, 0.0, 0.0, 0.0, work, 0.0, outside)
        dispatch, beyond = host.us("dispatch", sizes, self._counts)
        before, sooner = host.us("before", sizes, self._counts)
        launch, meanwhile = host.us("launch", sizes, self._counts)
        lead, late = (0.0, False) if any(self._plan_us) else host.us("lead", sizes, self._counts)
        between, _ = host.us("between", sizes, self._counts)  # no part of the total, which is what is extrapolated
        after, later = host.us("after", sizes, self._counts)
        if any(self._slower_us):
            launch = launch + sizes.by_mode(self._slower_us)
        of_decodes, of_prompts = self._plan_us
        plan = sizes.choose(sizes.tokens > sizes.requests, of_prompts, of_decodes)
        outside = outside | beyond | sooner | meanwhile | late | later
        return StepParts(before + plan, plan, launch, lead, between, work + dispatch, after, outside)

    def _cost(self, parts: StepParts, sizes: Sizes) -> StepCost:
        """The step put together, from a rest on."""
        device, limited, outside = parts.work, 0.0, parts.outside
        heavy = self.power.acts_on(sizes)
        if sizes.any(heavy):
            us, beyond = self.power.us(parts.work, sizes)
            device, limited = sizes.choose(heavy, us, device), sizes.choose(heavy, device, 0.0)
            outside = outside | (heavy & beyond)
        total = parts.before + sizes.longest(parts.launch, parts.lead + device) + parts.after
        around = parts.launch, parts.lead, parts.between, parts.plan
        return StepCost(parts.before, device, parts.after, total, outside, *around, limited)

    def limited(self, work_us: float, batch: StepBatch) -> tuple[float, float]:
        """us of the device from a rest on for what operations take at full clocks; and `StepCost.work_us`."""
        acts = self.power.acts_on(sizes_of(batch, self.graphs))
        return (self.power.us(work_us)[0], work_us) if acts else (work_us, 0.0)

    def padded(self, tokens: int, requests: int) -> int:
        """Tokens that all but attention works on."""
        return tokens if self.graphs is None else self.graphs.at(tokens, requests)[1]


_SAME = 1.25
"""Up to this factor two times to queue a call are those of one code: so much a host's speed changes meanwhile."""


def _queueing(work: Sequence[Work], host: HostModel | None) -> tuple[Mapping[str, int], tuple[float, ...]]:
    """Operations that the host queues, by what a part of its time counts; and us that some take beyond the usual, by
    place in `MODES`.

    Experts, which are many kernels, are not among the others.  Where the host was not measured with any, they take
    what they take by themselves, if that is known.  Attention takes longer by as much as it does by itself than that of
    the host's load, beyond what the host's speed changes by; not that whose second call the host was measured with.
    """
    launches = sum(each.count for each in work)
    attention = [each for each in work if each.operation.kind.stateful]
    twice = [each for each in attention if backend_of(each.operation.attr("backend")).calls_twice]
    known = host is not None and host.tells("X")
    experts = [each for each in work if each.operation.kind is Kind.MOE and (known or each.formula.queued_us)]
    mixtures = sum(each.count for each in experts)
    counts = {
        "operations": launches,
        "others": launches - mixtures,
        "attention": sum(each.count for each in attention),
        "mixtures": mixtures,
        "called_twice": sum(each.count for each in twice),
    }
    if host is None or not host.on_gpu:
        return counts, (0.0, 0.0, 0.0)
    measured = twice if host.tells("Y") else []
    by_themselves = [each for each in attention if each not in measured]

    def beyond_us(part: str) -> float:
        usual_us = host.formulas[part].queued_us
        if not usual_us:
            return 0.0
        return sum(each.count * max(0.0, each.formula.queued_us - _SAME * usual_us) for each in by_themselves)

    alone_us = 0.0 if known else sum(each.count * each.formula.queued_us for each in experts)
    return counts, (0.0, beyond_us("host_launch_piecewise"), beyond_us("host_launch_none") + alone_us)
