"""A stopwatch on the methods of a running engine: where the parts of its steps begin and end.

vLLM is not edited.  The probe serves the CPU runner, whose forward pass returns when it is done, and the GPU runner,
which queues kernels and returns while they run; there, CUDA events bracket what the step put on the GPU.  Where ranks
are processes of their own, only composing and updating are seen.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from types import TracebackType
from typing import Any, Protocol

from dooly.batch import Batch

__all__ = ["Probe", "SeenStep", "Watched"]


class Watched(Protocol):
    """An engine in this process.

    Attributes:
        core: the vllm.v1.engine.core.EngineCore.
        runner: its model runner; None where ranks are processes of their own.
        device: ``cpu`` or ``cuda``.
    """

    @property
    def core(self) -> Any: ...

    @property
    def runner(self) -> Any: ...

    @property
    def device(self) -> str: ...


@dataclass
class SeenStep:
    """One step that computed something; moments in seconds of time.perf_counter.

    Attributes:
        ids: of its requests, in the order of `requests`.
        requests: (new tokens, tokens cached before) of each.
        admitted: places in `ids` of those that the scheduler takes up for the first time: their cached tokens are hits
            of the prefix cache.
        preempted: requests that lost their KV blocks when it was composed.
        start_s, scheduled_s: composing it.
        called_s: the model is called: its inputs are there.
        issued_s: everything is queued on the GPU; on a CPU, the greedy tokens are there.
        ready_s, end_s: its results are there; the scheduler has taken them.
        parts_s: seconds spent in parts of the CPU's model: forward, logits, argmax; on a GPU queueing its forward pass.
        mode: how its kernels were launched: FULL or PIECEWISE CUDA graphs, or NONE.
        padded: tokens after padding to a captured size.
        events: CUDA events around what it put on the GPU; None on a CPU.
    """

    ids: tuple[str, ...]
    requests: tuple[tuple[int, int], ...]
    admitted: tuple[int, ...]
    preempted: tuple[str, ...]
    start_s: float
    scheduled_s: float
    called_s: float = 0.0
    issued_s: float = 0.0
    ready_s: float = 0.0
    end_s: float = 0.0
    parts_s: dict[str, float] = field(default_factory=dict[str, float])
    mode: str = "NONE"
    padded: int = 0
    events: tuple[Any, Any] | None = None

    @cached_property
    def batch(self) -> Batch:
        """The batch of the step."""
        return Batch(self.requests, len(self.requests))

    @property
    def before_us(self) -> float:
        """Composing the batch and preparing its inputs."""
        return 1e6 * (self.called_s - self.start_s)

    @property
    def launch_us(self) -> float:
        """Queueing the step's kernels on a GPU, sampling included; 0 on a CPU, which computes meanwhile."""
        return 0.0 if self.events is None else 1e6 * (self.issued_s - self.called_s)

    @property
    def device_us(self) -> float:
        """From calling the model, or from the end of the step before it, to the last of the sampler's kernels; on a CPU
        the time of the model's parts.

        An idle GPU waits for its first kernel meanwhile.  Must be asked after the step has ended.
        """
        if self.events is None:
            return 1e6 * sum(self.parts_s.values())
        first, last = self.events
        last.synchronize()
        return 1e3 * first.elapsed_time(last)

    def gap_us(self, before: "SeenStep") -> float:
        """On a GPU from the end of `before`'s kernels to the beginning of this step's: its inputs are copied meanwhile.

        The host's time, too, where it was not done with queueing them by then.  Must be asked after the step has ended.
        """
        if self.events is None or before.events is None:
            return 0.0
        self.events[0].synchronize()
        return 1e3 * before.events[1].elapsed_time(self.events[0])

    @property
    def total_us(self) -> float:
        """From composing it to the moment the scheduler has taken its tokens."""
        return 1e6 * (self.end_s - self.start_s)


class Probe:
    """Watches an engine while the `with` block lasts.

    Attributes:
        steps: those that have ended, in order; none where they are handed to `sink`.

    Args:
        sink: called with each step when it has ended.
    """

    def __init__(self, engine: Watched, sink: Callable[[SeenStep], None] | None = None) -> None:
        self.steps: list[SeenStep] = []
        self._engine = engine
        self._sink = self.steps.append if sink is None else sink
        self._under_way: deque[SeenStep | None] = deque()
        self._present: SeenStep | None = None
        self._wrapped: list[tuple[Any, str]] = []

    def __enter__(self) -> "Probe":
        core, runner = self._engine.core, self._engine.runner
        self._wrap(core.scheduler, "schedule", self._scheduled)
        self._wrap(core.scheduler, "update_from_output", self._updated)
        if runner is None:
            return self
        if self._engine.device == "cpu":
            self._wrap(runner, "_model_forward", self._part("forward"))
            self._wrap(runner.model, "compute_logits", self._part("logits"))
            self._wrap(runner.sampler, "greedy_sample", self._part("argmax"))
            return self
        if hasattr(runner, "cudagraph_manager"):  # the engine's second model runner
            self._wrap(runner.cudagraph_manager, "dispatch", self._dispatched)
            self._wrap(runner.model_state, "prepare_inputs", self._called)
        else:
            self._wrap(runner.cudagraph_dispatcher, "dispatch", self._chosen)
            self._wrap(runner, "_model_forward", before=self._called)
        self._wrap(runner, "execute_model", self._forwarded)
        self._wrap(runner, "sample_tokens", self._issued)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for owner, method in self._wrapped:
            delattr(owner, method)  # the wrapper hid the method of the class
        self._wrapped.clear()

    def _wrap(
        self,
        owner: Any,
        method: str,
        seen: Callable[[float, Any], None] | None = None,
        before: Callable[[], None] | None = None,
    ) -> None:
        original: Callable[..., Any] = getattr(owner, method)

        def watched(*args: Any, **kwargs: Any) -> Any:
            if before is not None:
                before()
            start = time.perf_counter()
            result = original(*args, **kwargs)
            if seen is not None:
                seen(start, result)
            return result

        setattr(owner, method, watched)
        self._wrapped.append((owner, method))

    # Each is told when its method was called, and what it returned just now.

    def _scheduled(self, start_s: float, output: Any) -> None:
        self._present = None
        if output.num_scheduled_tokens:
            scheduled_s = time.perf_counter()
            preempted = tuple(sorted(output.preempted_req_ids or ()))
            self._present = SeenStep(*_requests(output), preempted, start_s, scheduled_s)
        self._under_way.append(self._present)

    def _dispatched(self, _: float, descriptor: Any) -> None:
        if self._present is not None:
            self._present.mode, self._present.padded = descriptor.cg_mode.name, descriptor.num_tokens

    def _chosen(self, _: float, dispatched: tuple[Any, Any]) -> None:
        if self._present is not None:
            mode, descriptor = dispatched
            self._present.mode, self._present.padded = mode.name, descriptor.num_tokens

    def _called(self, *_: Any) -> None:
        if self._present is not None:
            self._present.events = _event(), None
            self._present.called_s = time.perf_counter()

    def _forwarded(self, _: float, __: Any) -> None:
        if self._present is not None:
            self._present.parts_s["forward"] = time.perf_counter() - self._present.called_s

    def _issued(self, _: float, __: Any) -> None:
        if self._present is not None and self._present.events is not None:
            self._present.issued_s = time.perf_counter()
            self._present.events = self._present.events[0], _event()

    def _part(self, name: str) -> Callable[[float, Any], None]:
        def seen(start_s: float, _: Any) -> None:
            step = self._present
            if step is not None:
                step.issued_s = time.perf_counter()
                step.parts_s[name] = step.issued_s - start_s
                step.called_s = step.called_s or start_s

        return seen

    def _updated(self, start_s: float, _: Any) -> None:
        step = self._under_way.popleft()
        if step is not None:
            step.ready_s, step.end_s = start_s, time.perf_counter()
            self._sink(step)


def _event() -> Any:
    """A CUDA event that has just been queued."""
    import torch

    event: Any = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _requests(scheduled: Any) -> tuple[tuple[str, ...], tuple[tuple[int, int], ...], tuple[int, ...]]:
    """Requests of a vLLM SchedulerOutput in its order, (new, cached) of each, and the places of those it takes up."""
    tokens: dict[str, int] = scheduled.num_scheduled_tokens
    running = scheduled.scheduled_cached_reqs
    cached: dict[str, int] = dict(zip(running.req_ids, running.num_computed_tokens, strict=True))
    fresh = {item.req_id: item.num_computed_tokens for item in scheduled.scheduled_new_reqs}
    cached.update(fresh)
    admitted = tuple(place for place, name in enumerate(tokens) if name in fresh) if fresh else ()
    return tuple(tokens), tuple(zip(tokens.values(), map(cached.__getitem__, tokens), strict=True)), admitted
