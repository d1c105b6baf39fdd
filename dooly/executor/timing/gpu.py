"""Timing on a GPU: kernels replayed from a CUDA graph, as the engine replays a step, or launched one by one.

Between two small operations of a step the engine reads hundreds of megabytes of weights: the second finds neither its
code nor its indices and block tables in a cache, only what was written just before it.  A small kernel that is repeated
by itself finds all of it there, and is too fast.  So where a trial says what is fresh, other work is put between the
calls in the graph, and the time of a graph of that work alone is subtracted.
"""

import functools
import gc
import itertools
import math
import statistics
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

from dooly.database import Samples
from dooly.executor.tensors import random_tensor
from dooly.executor.timing.cpu import ALONE, Peers, Precision, confidence
from dooly.executor.trial import Trial
from dooly.hardware.gpu import Gauge, Reading, Slowed

__all__ = ["between_events", "captured", "check_clocks", "gauge", "measure_on_gpu", "side_stream"]

_LONGEST_SAMPLE_US = 20_000.0
_MOST_LOOPS = 256
_BATCH = 5
"""Samples that are queued before the host waits, so that the GPU never waits for the host."""

_WIDTH = 4096
"""Columns of the weights that are read between calls."""

_BURST_US = 20_000.0
"""Work in one go, and then a rest as long, that no power limit slows down: on an H200 it acts after some 30 ms of large
products, and hardly after 20 ms without any."""


def measure_on_gpu(
    trial: Trial, precision: Precision, *, graph: bool, cache_bytes: int, peers: Peers = ALONE
) -> Samples:
    """Time `trial` between CUDA events.

    A sample is several calls back to back, and as many turns of the trial's weights as fit: each call finds its
    weights where the engine's next layer would, in memory.  Between a few samples the GPU rests as long
    as they took, or the power limit would hold its clocks down for large products, and for what is measured next.

    Args:
        graph: replay the calls from one CUDA graph; else launch them one by one, gaps between launches included and
            nothing put between them.
        cache_bytes: of the L2 cache.
        peers: other processes that time the same work on their GPUs.

    Returns:
        raw times per call in us; warm-ups apart, with what is between the calls; what the host takes to queue a call
        outside of a graph; clocks, temperature and power just after the last sample.

    Raises:
        RuntimeError: a kernel fails, cannot be captured, or takes too little time to be told from what is around it.
        Slowed: the GPU, or that of a peer, is slower than it should be.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        with side_stream() as stream:
            warmups = [between_events([trial.call], peers)[0] for _ in range(max(precision.warmups, 1))]
            queued_us = statistics.median(_queueing_us(trial.call) for _ in range(_BATCH))
            rest = _rest_of_step(trial.fresh, cache_bytes) if graph and trial.fresh is not None else None
            call = trial.call if rest is None else functools.partial(_in_turn, rest, trial.call)
            loops, call_us, run = 0, min(warmups), call
            while (wanted := loops_for(trial.turns, call_us, precision.sample_us)) > 1.5 * loops:
                loops = wanted
                run = captured(call, loops, peers) if graph else functools.partial(_repeat, call, loops)
                warmups += [value / loops for value in between_events([run] * 2, peers)]
                call_us = warmups[-1]  # a call in a graph is far shorter than one that is launched
            runs = [run] if rest is None else [run, captured(rest, loops, peers)]
            values: list[float] = []
            worked_us = _BURST_US
            started = time.perf_counter()
            elapsed_s = 0.0
            while not _enough(values, precision, elapsed_s):
                if peers is not ALONE:
                    trial.call()  # all leave it at the same time: none waits for another in the first sample
                else:
                    time.sleep(worked_us / 1e6)
                times_us = between_events(runs * samples_at_once(call_us * loops * len(runs)), peers)
                values += [value / loops for value in without_rest(times_us, len(runs))]
                worked_us = sum(times_us)
                (elapsed_s,) = peers.slowest([time.perf_counter() - started])
            reading = gauge().read()
            stream.synchronize()
            check_clocks(reading, peers)
            check_told_apart(values)
    finally:
        if collecting:
            gc.enable()
    state = (("queued_us", queued_us), ("memory_mhz", reading.memory_mhz), ("power_w", round(reading.power_w, 1)))
    return Samples(
        tuple(values), tuple(warmups), loops, (*trial.aside, *state), reading.clock_mhz, reading.temperature_c
    )


@contextmanager
def side_stream() -> Generator[Any]:
    """A stream of its own, in which CUDA graphs can be captured; it is current inside."""
    import torch

    stream: Any = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield stream


def check_clocks(reading: Reading, peers: Peers) -> None:
    """Check that neither this GPU nor that of a peer is slower than it should be; all peers ask at once.

    Raises:
        Slowed: one is.
    """
    (slowed,) = peers.slowest([float(bool(reading.slowed_by))])
    if slowed:
        raise Slowed(
            f"the GPU is slowed down by {reading.slowed_by or 'another, of its peers'} ({reading}): what it measures "
            "now is not true and is not kept; the same command goes on when it is well, or on another GPU"
        )


def check_told_apart(values_us: Sequence[float]) -> None:
    """Check that differences of two timings are times.

    Raises:
        RuntimeError: most are not positive.
    """
    if statistics.median(values_us) <= 0.0:
        raise RuntimeError("it takes less time than what is around it scatters by")


def loops_for(turns: int, call_us: float, sample_us: float) -> int:
    """Calls per sample: whole turns and at least `sample_us`, but no longer than 20 ms and no more than 256.

    >>> loops_for(3, 10.0, 100.0), loops_for(64, 1000.0, 100.0), loops_for(3, 0.1, 100.0)
    (12, 20, 256)
    """
    wanted = turns * math.ceil(sample_us / (call_us * turns))
    return max(1, min(wanted, math.floor(_LONGEST_SAMPLE_US / call_us), _MOST_LOOPS))


def samples_at_once(sample_us: float) -> int:
    """Samples that are queued together: no more work than a rested GPU does at full clocks, or one that is longer.

    >>> samples_at_once(1000.0), samples_at_once(9000.0), samples_at_once(50_000.0)
    (5, 2, 1)
    """
    return max(1, min(_BATCH, int(_BURST_US / sample_us)))


def without_rest(times_us: Sequence[float], kinds: int) -> list[float]:
    """Subtract from each run of the first kind the one of the second kind that follows, if there are two kinds.

    >>> without_rest([30.0, 28.0, 31.0, 28.5], 2), without_rest([30.0, 31.0], 1)
    ([2.0, 2.5], [30.0, 31.0])
    """
    if kinds == 1:
        return list(times_us)
    return [whole - rest for whole, rest in zip(times_us[::2], times_us[1::2], strict=True)]


def _in_turn(first: Callable[[], object], then: Callable[[], object]) -> None:
    first()
    then()


def _rest_of_step(fresh: tuple[Any, ...], cache_bytes: int) -> Callable[[], None]:
    """Return a stand-in for the rest of a step: a product with more weights than the cache holds, then a write.

    What is larger than the cache is not written: the end of it would have pushed out the beginning.
    """
    weight, vector = _streamed(2 * cache_bytes)
    kept = fresh if sum(tensor.nbytes for tensor in fresh) <= cache_bytes else ()

    def rest() -> None:
        weight.mv(vector)
        for tensor in kept:
            tensor.mul_(1.0)

    rest()  # what the library sets up at its first product cannot be captured
    return rest


@functools.cache
def _streamed(n_bytes: int) -> tuple[Any, Any]:
    """A weight matrix of so many bytes, and a vector to multiply it with."""
    shapes = (n_bytes // (2 * _WIDTH), _WIDTH), (_WIDTH,)
    weight, vector = (random_tensor(shape, "bf16", device="cuda") for shape in shapes)
    return weight, vector


def _repeat(call: Callable[[], object], loops: int) -> None:
    for _ in range(loops):
        call()


def captured(call: Callable[[], object], loops: int, peers: Peers) -> Callable[[], None]:
    """The calls as one CUDA graph, to be replayed."""
    import torch

    graph = torch.cuda.CUDAGraph()
    with (
        peers.capturing(),
        torch.cuda.graph(graph, stream=torch.cuda.current_stream(), capture_error_mode="thread_local"),
    ):
        _repeat(call, loops)
    return graph.replay


def between_events(runs: Sequence[Callable[[], object]], peers: Peers) -> list[float]:
    """Microseconds of each run, queued one after the other."""
    import torch

    events: list[Any] = [torch.cuda.Event(enable_timing=True) for _ in range(len(runs) + 1)]
    events[0].record()
    for run, event in zip(runs, events[1:], strict=True):
        run()
        event.record()
    events[-1].synchronize()
    return peers.slowest([1e3 * before.elapsed_time(after) for before, after in itertools.pairwise(events)])


def _queueing_us(call: Callable[[], object]) -> float:
    """Return the host's us to queue one call outside of a graph, while nothing else waits."""
    import torch

    torch.cuda.current_stream().synchronize()
    started = time.perf_counter()
    call()
    return 1e6 * (time.perf_counter() - started)


def _enough(values: list[float], precision: Precision, elapsed_s: float) -> bool:
    if len(values) < precision.min_samples:
        return len(values) >= _BATCH and elapsed_s > precision.cap_s
    if elapsed_s > precision.cap_s or len(values) >= precision.max_samples:
        return True
    return confidence(values) <= precision.tolerance and statistics.median(values) > 0.0


@functools.cache
def gauge() -> Gauge:
    """The gauge of the GPU in use."""
    return Gauge()
