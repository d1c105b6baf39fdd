"""Timing on a GPU: kernels replayed from a CUDA graph, as the engine replays a step, or launched one by one."""

import functools
import gc
import itertools
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

from dooly.database import Samples
from dooly.executor.gpu import Gauge
from dooly.executor.runner import Trial
from dooly.executor.timing import ALONE, Peers, Precision, confidence

__all__ = ["measure_on_gpu"]

_LONGEST_SAMPLE_US = 20_000.0
_MOST_LOOPS = 256
_BATCH = 5
"""Samples that are queued before the host waits, so that the GPU never waits for the host."""


def measure_on_gpu(trial: Trial, precision: Precision, *, graph: bool, peers: Peers = ALONE) -> Samples:
    """Time `trial` between CUDA events.

    A sample is several calls back to back, and as many turns of the trial's weights as fit: each call finds its
    weights where the engine's next layer would, in memory.

    Args:
        graph: replay the calls from one CUDA graph; else launch them one by one, gaps between launches included.
        peers: other processes that time the same work on their GPUs.

    Returns:
        raw times per call in us, warm-ups apart; clocks, temperature and power just after the last sample.

    Raises:
        RuntimeError: a kernel fails, or cannot be captured.
    """
    import torch

    collecting = gc.isenabled()
    gc.disable()
    stream: Any = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    try:
        with torch.cuda.stream(stream):
            warmups = [_between_events(trial.call, 1, peers)[0] for _ in range(max(precision.warmups, 1))]
            loops, call_us, run = 0, min(warmups), trial.call
            while (wanted := loops_for(trial.turns, call_us, precision.sample_us)) > 1.5 * loops:
                loops = wanted
                run = _captured(trial.call, loops, peers) if graph else functools.partial(_repeat, trial.call, loops)
                warmups += [value / loops for value in _between_events(run, 2, peers)]
                call_us = warmups[-1]  # a call in a graph is far shorter than one that is launched
            values: list[float] = []
            started = time.perf_counter()
            elapsed_s = 0.0
            while not _enough(values, precision, elapsed_s):
                if peers is not ALONE:
                    trial.call()  # all leave it at the same time: none waits for another in the first sample
                values += [value / loops for value in _between_events(run, _BATCH, peers)]
                (elapsed_s,) = peers.slowest([time.perf_counter() - started])
            reading = _gauge().read()
            stream.synchronize()
    finally:
        if collecting:
            gc.enable()
    state = (("memory_mhz", reading.memory_mhz), ("power_w", round(reading.power_w, 1)))
    return Samples(
        tuple(values), tuple(warmups), loops, (*trial.aside, *state), reading.clock_mhz, reading.temperature_c
    )


def loops_for(turns: int, call_us: float, sample_us: float) -> int:
    """Calls per sample: whole turns and at least `sample_us`, but no longer than 20 ms and no more than 256.

    >>> loops_for(3, 10.0, 100.0), loops_for(64, 1000.0, 100.0), loops_for(3, 0.1, 100.0)
    (12, 20, 256)
    """
    wanted = turns * math.ceil(sample_us / (call_us * turns))
    return max(1, min(wanted, math.floor(_LONGEST_SAMPLE_US / call_us), _MOST_LOOPS))


def _repeat(call: Callable[[], object], loops: int) -> None:
    for _ in range(loops):
        call()


def _captured(call: Callable[[], object], loops: int, peers: Peers) -> Callable[[], None]:
    """The calls as one CUDA graph, to be replayed."""
    import torch

    graph = torch.cuda.CUDAGraph()
    with (
        peers.capturing(),
        torch.cuda.graph(graph, stream=torch.cuda.current_stream(), capture_error_mode="thread_local"),
    ):
        _repeat(call, loops)
    return graph.replay


def _between_events(run: Callable[[], object], times: int, peers: Peers) -> list[float]:
    """Microseconds of each run, queued one after the other."""
    import torch

    events: list[Any] = [torch.cuda.Event(enable_timing=True) for _ in range(times + 1)]
    events[0].record()
    for event in events[1:]:
        run()
        event.record()
    events[-1].synchronize()
    return peers.slowest([1e3 * before.elapsed_time(after) for before, after in itertools.pairwise(events)])


def _enough(values: list[float], precision: Precision, elapsed_s: float) -> bool:
    if len(values) < precision.min_samples:
        return len(values) >= _BATCH and elapsed_s > precision.cap_s
    if elapsed_s > precision.cap_s or len(values) >= precision.max_samples:
        return True
    return confidence(values) <= precision.tolerance and statistics.median(values) > 0.0


@functools.cache
def _gauge() -> Gauge:
    return Gauge()
