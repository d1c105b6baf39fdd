"""Time of the front of a server, from what a load showed: raw samples by shape, as those of the host's other parts.

``front_in``   {R, T}: from the client's sending of a request until the engine core has it.  The API server's process
               takes in one at a time: R requests with T prompt tokens together, itself among them, came through
               meanwhile
``front_out``  {R}: from the end of a step of R requests until the client has the first token of one of them
``front_cpu``  {L, N, R, T}: processor time of the API server's process over a load of R requests with T prompt tokens,
               of which N steps gave L output tokens
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from math import isnan

from dooly.database import Point
from dooly.engine.client import ServedRequest
from dooly.engine.step_log import LoggedStep

__all__ = ["front_samples"]

Samples = Mapping[tuple[str, Point], list[float]]


def front_samples(requests: Sequence[ServedRequest], steps: Sequence[LoggedStep], cpu_s: float) -> Samples:
    """Samples in us by part and point of one load.

    Requests that the engine core did not log are left out.

    Args:
        cpu_s: processor time of the API server's process meanwhile.
    """
    found: defaultdict[tuple[str, Point], list[float]] = defaultdict(list)
    for point, us in (*_in(requests), *_out(requests, steps)):
        found[point].append(us)
    if requests and steps:
        outputs = sum(request.output_tokens for request in requests)
        prompts = sum(request.prompt_tokens for request in requests)
        shape = Point.of(L=outputs, N=len(steps), R=len(requests), T=prompts)
        found["front_cpu", shape].append(1e6 * cpu_s)
    return dict(found)


def _in(requests: Sequence[ServedRequest]) -> Iterable[tuple[tuple[str, Point], float]]:
    seen = sorted((each for each in requests if not isnan(each.arrived_s)), key=lambda each: each.arrived_s)
    arrivals = [each.arrived_s for each in seen]
    tokens = [0, *accumulate(each.prompt_tokens for each in seen)]
    for each in seen:
        first, last = bisect_right(arrivals, each.sent_s), bisect_right(arrivals, each.arrived_s)
        point = Point.of(R=last - first, T=tokens[last] - tokens[first])
        yield ("front_in", point), 1e6 * (each.arrived_s - each.sent_s)


def _out(requests: Sequence[ServedRequest], steps: Sequence[LoggedStep]) -> Iterable[tuple[tuple[str, Point], float]]:
    ends = [step.end_s for step in steps]
    for each in requests:
        place = bisect_left(ends, each.sampled_s)
        if place < len(ends) and ends[place] == each.sampled_s:
            yield ("front_out", Point.of(R=len(steps[place].requests))), 1e6 * (each.first_token_s - each.sampled_s)
