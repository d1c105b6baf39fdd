"""A load sent to a server by vLLM's own client, and what the engine core logged meanwhile, request by request."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dooly.engine.loads import Load
from dooly.engine.server import Server
from dooly.engine.step_log import LoggedRequest, LoggedStep, read_step_log

__all__ = ["ServedRequest", "Sent", "send"]


@dataclass(frozen=True)
class ServedRequest:
    """A request as client and engine core saw it; moments in seconds since the first request of the load was sent.

    Attributes:
        prompt_tokens, output_tokens: lengths.
        cached_tokens: tokens of the prompt that the prefix cache held; -1 if no step was logged.
        sent_s: the client sends it.
        arrived_s: the engine core has it decoded; nan if it was not logged.
        admitted_s: the scheduler begins to compose the first step with it; nan if it was not logged.
        sampled_s: the scheduler has taken its first token; nan if it was not logged.
        first_token_s, finish_s: the client receives its first and its last token.
        gaps_us: between the tokens that the client receives; empty where they were not kept.
    """

    prompt_tokens: int
    output_tokens: int
    cached_tokens: int
    sent_s: float
    arrived_s: float
    admitted_s: float
    sampled_s: float
    first_token_s: float
    finish_s: float
    gaps_us: tuple[int, ...] = ()

    @property
    def ttft_s(self) -> float:
        """Time to first token (s)."""
        return self.first_token_s - self.sent_s

    @property
    def tpot_s(self) -> float:
        """Time per output token after the first (s)."""
        return (self.finish_s - self.first_token_s) / max(1, self.output_tokens - 1)


@dataclass(frozen=True)
class Sent:
    """Outcome of a load that was sent.

    Attributes:
        result: numbers of the client's result by its key.
        requests: in the client's order.
        steps: of the engine core, numbered by `requests`; moments since the first request was sent.
        origin_s: when that was, in seconds of time.perf_counter.
    """

    result: dict[str, float]
    requests: tuple[ServedRequest, ...]
    steps: tuple[LoggedStep, ...]
    origin_s: float


def send(server: Server, load: Load, seed: int, logs: Path) -> Sent:
    """Send a load to a server whose engine core logs its steps.

    Args:
        seed: of prompts, lengths and arrivals; another one each time, or the prefix cache has the prompts already.
        logs: folder of the step logs.

    Raises:
        SimulationError: the client refuses the load, or a request fails.
    """
    prefix = f"{load.name}-{seed}-"
    result = server.bench(load.options(seed, prefix))
    origin_s = min(result["start_times"])
    asked, steps = _own([read_step_log(path) for path in sorted(logs.glob("*.bin"))], prefix, origin_s)
    numbers = {name: float(value) for name, value in result.items() if isinstance(value, int | float)}
    return Sent(numbers, tuple(_requests(result, asked, steps, origin_s)), tuple(steps), origin_s)


def _own(
    logged: Sequence[tuple[list[LoggedRequest], list[LoggedStep]]], prefix: str, origin_s: float
) -> tuple[dict[int, LoggedRequest], list[LoggedStep]]:
    """The core's view of the client's requests by their place, and the steps that served any, numbered alike.

    Moments of the steps are counted from `origin_s`.  A step with other requests, of the load before, is left out.
    """
    asked: dict[int, LoggedRequest] = {}
    taken: list[LoggedStep] = []
    pattern = re.compile(rf"cmpl-{re.escape(prefix)}(\d+)-")
    for requests, steps in logged:
        places: dict[int, int] = {}
        for request in requests:
            if found := pattern.match(request.name):
                places[request.number] = int(found[1])
                asked[int(found[1])] = request
        own = (step for step in steps if step.numbers[0] in places and step.start_s >= origin_s)
        taken += (_moved(step, places, origin_s) for step in own)
    return asked, sorted(taken, key=lambda step: step.start_s)


def _moved(step: LoggedStep, places: dict[int, int], origin_s: float) -> LoggedStep:
    return replace(
        step,
        start_s=step.start_s - origin_s,
        scheduled_s=step.scheduled_s - origin_s,
        called_s=step.called_s - origin_s,
        issued_s=step.issued_s - origin_s,
        ready_s=step.ready_s - origin_s,
        end_s=step.end_s - origin_s,
        numbers=tuple(places.get(number, -1) for number in step.numbers),
        preempted=tuple(places.get(number, -1) for number in step.preempted),
    )


def _requests(
    result: dict[str, Any], asked: dict[int, LoggedRequest], steps: Sequence[LoggedStep], origin_s: float
) -> list[ServedRequest]:
    admitted: dict[int, tuple[float, int]] = {}
    sampled: dict[int, float] = {}
    for step in steps:
        for place in step.admitted:
            admitted.setdefault(step.numbers[place], (step.start_s, step.requests[place][1]))
        for number, (new, cached) in zip(step.numbers, step.requests, strict=True):
            if number in asked and new + cached >= asked[number].prompt_tokens:
                sampled.setdefault(number, step.end_s)
    columns = zip(
        result["input_lens"], result["output_lens"], result["start_times"], result["ttfts"], result["itls"], strict=True
    )
    found: list[ServedRequest] = []
    for place, (prompt, output, start_s, ttft_s, gaps_s) in enumerate(columns):
        sent_s = start_s - origin_s
        arrived_s = asked[place].arrived_s - origin_s if place in asked else math.nan
        admitted_s, cached = admitted.get(place, (math.nan, -1))
        found.append(
            ServedRequest(
                prompt_tokens=int(prompt),
                output_tokens=int(output),
                cached_tokens=cached,
                sent_s=sent_s,
                arrived_s=arrived_s,
                admitted_s=admitted_s,
                sampled_s=sampled.get(place, math.nan),
                first_token_s=sent_s + ttft_s,
                finish_s=sent_s + ttft_s + sum(gaps_s),
                gaps_us=tuple(round(1e6 * gap_s) for gap_s in gaps_s),
            )
        )
    return found
