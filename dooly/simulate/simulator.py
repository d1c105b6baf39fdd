"""A scheduler on a simulated clock: what each request of a trace would have waited.

No policy is here: batches are composed by the engine's own scheduler, or by the compact one that is held to it.  This
module owns the clock: when requests arrive, when a step starts and ends, and when its tokens are out.  Identical inputs
give identical results.
"""

from __future__ import annotations

import time
from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

from dooly.batch import Batch, StepBatch, StepCost
from dooly.engine.settings import EngineSettings, model_folder
from dooly.errors import SimulationError
from dooly.predict import NO_LIMIT, PowerLimit
from dooly.simulate.clock import Clock
from dooly.simulate.compact_scheduler import CompactScheduler
from dooly.simulate.decode_costs import DecodeCosts
from dooly.simulate.records import RequestRecord, Run, StepRecord
from dooly.simulate.scheduling import Scheduler, Step, TokenEvent
from dooly.simulate.tokens import Start, TokenTimes
from dooly.simulate.trace import Trace
from dooly.simulate.vllm_scheduler import EngineScheduler

__all__ = ["Progress", "StepTime", "simulate", "simulate_fast"]

StepTime = Callable[[StepBatch], float | StepCost]
Progress = Callable[[int, int], None]
_NO_SEAT: deque[float] = deque()


@dataclass(slots=True)
class _Request:
    """A request under way."""

    sent_s: float
    starts: list[Start] = field(default_factory=list[Start])
    first_token_s: float | None = None
    finish_s: float | None = None
    tokens: int = 0
    cached_tokens: int = 0
    preemptions: int = 0


def simulate(
    model: str | Path,
    trace: Trace,
    step_time: StepTime,
    settings: EngineSettings | None = None,
    *,
    power: PowerLimit = NO_LIMIT,
    concurrency: int | None = None,
    progress: Progress | None = None,
) -> Run:
    """Serve `trace` on a simulated clock.

    Synchronous scheduling: a step takes the time that `step_time` gives, and requests that arrive meanwhile are seen
    when it ends.  Asynchronous scheduling: the host composes and queues step n + 1 while the device runs step n; the
    device starts a step when it is free and the step is prepared, and ends it no earlier than its last kernel is
    queued; updating with the results of n happens on the host while n + 1 runs.

    Args:
        model: folder with config.json, or that file.
        trace: every request must fit into settings.max_model_len (see `Trace.clip`).
        step_time: seconds (all of them on the device) or a StepCost in us for the batch of one step.
        settings: of the engine; None for the defaults.
        power: what makes steps longer that follow others; `step_time` is of steps of a rested device.
        concurrency: most requests that the client has under way; one that is due waits, in order, until one of them
            has its last token.  None for any number.
        progress: called with (requests finished, requests) as requests finish.

    Raises:
        SimulationError: a request is too long, the engine refuses model or settings, a step time is not positive, or
            the concurrency is below 1.
    """
    settings = EngineSettings() if settings is None else settings
    check_lengths(trace, settings)
    scheduler = EngineScheduler(model, settings)
    simulator = _Simulator(scheduler, trace, step_time, power, concurrency, progress, True)
    return simulator.run(model_folder(model).name, settings)


def simulate_fast(
    model: str,
    trace: Trace,
    step_time: StepTime,
    settings: EngineSettings | None = None,
    *,
    power: PowerLimit = NO_LIMIT,
    concurrency: int | None = None,
    progress: Progress | None = None,
    keep_steps: bool = False,
) -> Run:
    """`simulate` with the compact scheduler: the same run for a model whose layers all have one full attention, without
    vLLM and much faster.

    Every batch is the same; times of steps in which the same requests go on decoding are interpolated (`DecodeCosts`).

    Args:
        model: its name.
        trace, settings, power, concurrency, progress: as for `simulate`.
        step_time: as for `simulate`; a time that asks for single requests (`StepBatch.requests`, or attention within a
            window) makes it slower.
        keep_steps: whether the run lists its steps.

    Raises:
        SimulationError: a request is too long, a step time is not positive, or the concurrency is below 1.
    """
    settings = EngineSettings() if settings is None else settings
    check_lengths(trace, settings)
    scheduler = CompactScheduler(settings)
    return _Simulator(scheduler, trace, step_time, power, concurrency, progress, keep_steps).run(model, settings)


def check_lengths(trace: Trace, settings: EngineSettings) -> None:
    """Raise SimulationError for the first request of `trace` that is longer than settings.max_model_len."""
    for index, request in enumerate(trace.requests, start=1):
        length = request.prompt_tokens + request.output_tokens
        if length > settings.max_model_len:
            raise SimulationError(
                f"{trace.name}: request {index} needs {length} tokens, but max_model_len is {settings.max_model_len}; "
                "raise max_model_len or clip the trace"
            )


class _Simulator:
    def __init__(
        self,
        engine: Scheduler,
        trace: Trace,
        step_time: StepTime,
        power: PowerLimit,
        concurrency: int | None,
        progress: Progress | None,
        keep_steps: bool,
    ) -> None:
        if concurrency is not None and concurrency < 1:
            raise SimulationError(f"concurrency is {concurrency}; expected at least 1 request under way")
        self.engine, self.trace, self.step_time, self.progress = engine, trace, step_time, progress
        self.costs, self.clock, self.keep_steps = DecodeCosts(self._cost), Clock(power), keep_steps
        self.compact = engine if isinstance(engine, CompactScheduler) and not keep_steps else None
        self.requests: dict[str, _Request] = {}
        self.steps: list[StepRecord] = []
        self.unlisted = (0, 0)
        self.done = 0
        self.waiting = deque(enumerate(trace.requests))
        self.seats = None if concurrency is None else deque([0.0] * min(concurrency, len(trace)))
        self.ends_s = array("d")
        self.in_flight: deque[Step] = deque()

    def run(self, model: str, settings: EngineSettings) -> Run:
        """Serve the trace to its end."""
        start = time.perf_counter()
        self._serve()
        return Run(
            source="simulated",
            model=model,
            trace=self.trace.name,
            settings=settings,
            clipped=self.trace.clipped,
            requests=self._records(),
            steps=tuple(self.steps),
            wall_s=time.perf_counter() - start,
            unlisted=self.unlisted,
            tokens=TokenTimes(self.ends_s, tuple(tuple(self.requests[str(i)].starts) for i in range(len(self.trace)))),
        )

    def _serve(self) -> None:
        """The loop of the engine core: take arrivals, compose a step if there is room, else finish the oldest."""
        while True:
            if self._next_s() <= self.clock.now_s:
                self._admit()
            elif self.compact is not None and self._coast(self.compact):
                continue
            if self.engine.busy():
                self._launch()
                if len(self.in_flight) < self.engine.depth and (self.in_flight[-1].batch or self.engine.busy()):
                    continue
            elif not self.in_flight:
                if not self.waiting:
                    return
                self.clock.now_s = max(self.clock.now_s, self._next_s())
                continue
            self._finish_oldest()

    def _next_s(self) -> float:
        """When the next request is sent, as far as is known: once it is due, and the client has a seat for it."""
        if not self.waiting or self.seats == _NO_SEAT:
            return inf
        due_s = self.waiting[0][1].arrival_s
        return due_s if self.seats is None else max(due_s, self.seats[0])

    def _admit(self) -> None:
        while (sent_s := self._next_s()) <= self.clock.now_s:
            index, request = self.waiting.popleft()
            if self.seats is not None:
                self.seats.popleft()
            self.requests[str(index)] = _Request(sent_s)
            self.engine.submit(str(index), request)

    def _coast(self, scheduler: CompactScheduler) -> bool:
        """Move only the clock over steps in which nothing but decoding happens, until one arrives; whether over any."""
        steps = 0
        if len(self.in_flight) == scheduler.depth - 1:
            most, clock = scheduler.steady(), self.clock
            arrival_s = self._next_s()
            while steps < most and clock.now_s < arrival_s:
                clock.launch(self.costs.further())
                clock.finish()
                self.ends_s.append(clock.now_s)
                steps += 1
        if steps:
            scheduler.skip(steps)
            self.unlisted = self.unlisted[0] + steps, self.unlisted[1] + steps * scheduler.decoding
        return steps > 0

    def _launch(self) -> None:
        start_s = self.clock.now_s
        step = self.engine.schedule()
        self.in_flight.append(step)
        for name in self.engine.preempted(step):
            self.requests[name].preemptions += 1
        batch = step.batch
        if batch is None:
            self.clock.launch_nothing()
            return
        cost = self.costs(batch)
        device_us = self.clock.launch(cost)
        if self.keep_steps:
            end_s = self.clock.free_s + cost.host_after_us / 1e6
            self.steps.append(
                StepRecord(
                    start_s=start_s,
                    batch=batch if isinstance(batch, Batch) else Batch(batch.requests, batch.logits),
                    host_before_us=cost.host_before_us,
                    device_us=device_us,
                    host_after_us=cost.host_after_us,
                    total_us=(end_s - start_s) * 1e6,
                    launch_us=cost.launch_us,
                )
            )
        else:
            steps, requests = self.unlisted
            self.unlisted = steps + 1, requests + batch.count

    def _cost(self, batch: StepBatch) -> StepCost:
        cost = self.step_time(batch)
        if not isinstance(cost, StepCost):
            cost = StepCost(0.0, cost * 1e6, 0.0, cost * 1e6)
        before, device, after, total, _, launch, lead, between, _, _ = cost
        if not (min(before, device, after, launch, lead, between) >= 0 and 0 < total < inf):
            raise SimulationError(f"step time of {batch.tokens} tokens in {batch.count} requests is {cost}")
        return cost

    def _finish_oldest(self) -> None:
        self.clock.finish()
        for event in self.engine.update(self.in_flight.popleft()):
            self._note(event)
        self.ends_s.append(self.clock.now_s)

    def _note(self, event: TokenEvent) -> None:
        """Keep what a token of the step that ends now says about its request."""
        request, step = self.requests[event.name], len(self.ends_s)
        if not request.starts or event.tokens - request.starts[-1].tokens != step - request.starts[-1].step:
            request.starts.append(Start(event.tokens, step))
        if request.first_token_s is None:
            request.first_token_s = self.clock.now_s
            request.cached_tokens = event.cached_tokens
        if event.finished:
            request.tokens = event.tokens
            request.finish_s = self.clock.now_s
            if self.seats is not None:
                self.seats.append(self.clock.now_s)
            self.done += 1
            if self.progress is not None:
                self.progress(self.done, len(self.trace))

    def _records(self) -> tuple[RequestRecord, ...]:
        """Return one record of each request, in order of the trace."""
        records: list[RequestRecord] = []
        for index, expected in enumerate(self.trace.requests):
            request = self.requests[str(index)]
            if request.first_token_s is None or request.finish_s is None or request.tokens != expected.output_tokens:
                raise SimulationError(
                    f"request {index + 1} ended with {request.tokens} of {expected.output_tokens} tokens"
                )
            records.append(
                RequestRecord(
                    arrival_s=request.sent_s,
                    first_token_s=request.first_token_s,
                    finish_s=request.finish_s,
                    prompt_tokens=expected.prompt_tokens,
                    output_tokens=request.tokens,
                    cached_tokens=request.cached_tokens,
                    preemptions=request.preemptions,
                )
            )
        return tuple(records)
