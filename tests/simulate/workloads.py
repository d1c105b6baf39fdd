"""Random workloads, and a loop that notes everything a scheduler decides about one."""

import random
from collections import deque
from typing import Any

from dooly.engine.settings import EngineSettings
from dooly.simulate.scheduling import Scheduler
from dooly.simulate.trace import TraceRequest

Arrivals = list[tuple[int, TraceRequest]]


def random_settings(rng: random.Random) -> EngineSettings:
    """Mostly short of KV blocks, so that there is preemption."""
    size = rng.choice([16, 32, 64])
    sequences = rng.randint(1, 20)
    length = rng.choice([256, 512, 1024])
    needed = -(-length // size) + 1
    blocks = rng.choice([None, needed + rng.randint(0, 4), needed + rng.randint(0, needed)])
    budget = max(sequences, rng.choice([32, 64, 128, 512]))
    caching, overlapped, chunked = rng.random() < 0.6, rng.random() < 0.5, rng.random() < 0.8
    if not chunked:
        budget = max(budget, length)
    return EngineSettings(sequences, budget, length, size, blocks, caching, overlapped, chunked)


def random_requests(rng: random.Random, length: int) -> Arrivals:
    """Each with the step before which it arrives: prompts that share beginnings, and lengths at block boundaries."""
    tokens = rng.choice([512, 512, 16, 24])
    ids = 2 if tokens == 512 else 12
    beginnings = [tuple(rng.randrange(3) for _ in range(rng.randint(0, ids))) for _ in range(4)]
    beginnings += [each[: rng.randint(0, ids)] for each in beginnings]
    longest_output = rng.choice([1, 5, 60, 200])
    at_once, shared = rng.random() < 0.3, rng.random() < 0.7
    found: Arrivals = []
    for _ in range(rng.randint(1, 40)):
        prefix = rng.choice(beginnings) if shared and (length > 600 or tokens < 512) else ()
        prefix = prefix[: (length - 2) // tokens]
        least = max(1, tokens * (len(prefix) - 1) + 1)
        prompt = rng.choice([rng.randint(least, length - 1), rng.choice([16, 32, 33, 64, 512, 513]), least])
        prompt = min(max(prompt, least), length - 1)
        output = rng.randint(1, min(length - prompt, longest_output))
        found.append((0 if at_once else rng.randint(0, 60), TraceRequest(0.0, prompt, output, prefix, tokens)))
    return sorted(found, key=lambda arrival: arrival[0])


def decisions(scheduler: Scheduler, arrivals: Arrivals) -> tuple[list[Any], int, int]:
    """Every batch and every first or last token, in order; how many preemptions there were, and prefix hits."""
    waiting, under_way = deque(enumerate(arrivals)), deque[Any]()
    noted: list[Any] = []
    steps = preemptions = hits = 0
    while True:
        while waiting and waiting[0][1][0] <= steps:
            index, (_, request) = waiting.popleft()
            scheduler.submit(str(index), request)
        if scheduler.busy():
            step = scheduler.schedule()
            steps += 1
            lost = sorted(scheduler.preempted(step))
            preemptions += len(lost)
            noted.append((step.batch and tuple(step.batch.requests), lost))
            under_way.append(step)
            if len(under_way) < scheduler.depth and (step.batch or scheduler.busy()):
                continue
        elif not under_way:
            if not waiting:
                return noted, preemptions, hits
            steps = waiting[0][1][0]
            continue
        for event in sorted(scheduler.update(under_way.popleft()), key=lambda event: int(event.name)):
            first = event.tokens == 1
            hits += first and event.cached_tokens > 0
            noted.append((event.name, event.tokens, event.finished, event.cached_tokens if first else None))
