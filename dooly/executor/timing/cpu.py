"""Calibrated timing of one call: warm up, choose loops, sample until the median is known well enough."""

import gc
import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from dooly.database import Samples

__all__ = ["ALONE", "OTHERS", "Peers", "Precision", "confidence", "measure"]

OTHERS = "busy_elsewhere"
"""Name under which the samples say how many processors other processes kept busy meanwhile."""

_Z = 1.96


@dataclass(frozen=True)
class Precision:
    """When a point is good enough.

    Fields:
        sample_us: a sample is at least this long; short calls are looped.
        tolerance: wanted half width of the 95 % interval of the median, over the median.
        min_samples, max_samples: bounds on the number of samples.
        floor_s: sample for at least this long, so that one bad moment of a busy machine is not the whole point.
        cap_s: no further sample once a point has taken this long.
        warmups: calls before the first sample, at least.
    """

    sample_us: float = 300.0
    tolerance: float = 0.03
    min_samples: int = 9
    max_samples: int = 200
    floor_s: float = 0.05
    cap_s: float = 0.5
    warmups: int = 3

    @classmethod
    def usual(cls, device: str) -> "Precision":
        """Return the precision that suits a device (torch's name): GPUs hardly scatter, so they need few samples."""
        if device == "cuda":
            return cls(sample_us=1000.0, tolerance=0.01, min_samples=15, max_samples=60, floor_s=0.0, cap_s=0.4)
        return cls()

    def cost_s(self, call_us: float) -> float:
        """Expected wall seconds of one point whose call takes `call_us`."""
        fewest_s = (self.warmups * call_us + 3 * max(call_us, self.sample_us)) / 1e6
        usual_s = (self.warmups * call_us + 2 * self.min_samples * max(call_us, self.sample_us)) / 1e6
        return max(fewest_s, min(max(usual_s, self.floor_s), self.cap_s))


@dataclass(frozen=True)
class Peers:
    """Processes that time one piece of work together.

    All see the same times, those of the slowest, and so all stop after the same number of calls.

    Fields:
        slowest: elementwise maximum over the processes.
        capturing: what must surround the capture of the work in a CUDA graph.
    """

    slowest: Callable[[list[float]], list[float]]
    capturing: Callable[[], AbstractContextManager[None]]


ALONE = Peers(lambda values: values, nullcontext)
"""No other process takes part."""


def confidence(values: Sequence[float]) -> float:
    """Half width of the 95 % interval of the median over the median, from order statistics; infinite below 5 values."""
    if len(values) < 5:
        return math.inf
    ordered = sorted(values)
    n = len(ordered)
    reach = _Z * math.sqrt(n) / 2.0
    low = ordered[max(0, math.floor(n / 2.0 - reach))]
    high = ordered[min(n - 1, math.ceil(n / 2.0 + reach) - 1)]
    return (high - low) / 2.0 / ordered[n // 2]


def measure(
    call: Callable[[], object],
    precision: Precision,
    aside: tuple[tuple[str, float], ...] = (),
    peers: Peers = ALONE,
) -> Samples:
    """Time `call`.

    Whatever `call` does not repeat at each run (set-up, copies, metadata) stays outside.

    Returns:
        raw times per call in us, warm-ups apart.
    """
    warmups: list[float] = []
    started = time.perf_counter()
    others = _others_cpu_s()
    collecting = gc.isenabled()
    gc.disable()

    def timed(loops: int) -> tuple[float, float]:
        """Microseconds per call, and seconds since the start: those of the slowest."""
        value, elapsed_s = peers.slowest([_timed(call, loops), time.perf_counter() - started])
        return value, elapsed_s

    try:
        elapsed_s = 0.0
        while len(warmups) < precision.warmups or (
            len(warmups) < 4 * precision.warmups
            and warmups[-1] < 0.8 * warmups[-2]
            and elapsed_s < precision.cap_s / 4.0
        ):
            value, elapsed_s = timed(1)
            warmups.append(value)
        loops = max(1, math.ceil(precision.sample_us / min(warmups)))
        values: list[float] = []
        while not _enough(values, precision, elapsed_s):
            value, elapsed_s = timed(loops)
            values.append(value)
    finally:
        if collecting:
            gc.enable()
    # The kernel counts in hundredths of a second, so a short point can only be told roughly.
    busy = min((_others_cpu_s() - others) / (time.perf_counter() - started), os.cpu_count() or 1)
    return Samples(tuple(values), tuple(warmups), loops, (*aside, (OTHERS, round(max(0.0, busy), 2))), _clock_mhz())


def _enough(values: list[float], precision: Precision, elapsed_s: float) -> bool:
    if len(values) < 3:
        return False
    if elapsed_s > precision.cap_s or len(values) >= precision.max_samples:
        return True
    if len(values) < precision.min_samples or elapsed_s < precision.floor_s:
        return False
    quiet = Samples(tuple(values)).undisturbed_us
    return len(quiet) >= precision.min_samples and confidence(quiet) <= precision.tolerance


def _timed(call: Callable[[], object], loops: int) -> float:
    """Microseconds per call."""
    start = time.perf_counter_ns()
    for _ in range(loops):
        call()
    return (time.perf_counter_ns() - start) / 1e3 / loops


def _others_cpu_s() -> float:
    """Processor seconds that other processes, and other guests of the same host, have used since the start."""
    try:
        words = Path("/proc/stat").read_text().split(maxsplit=9)[1:9]
    except OSError:
        return 0.0
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, words)
    mine = os.times()
    ticks = user + nice + system + irq + softirq + steal
    return ticks / os.sysconf("SC_CLK_TCK") - mine.user - mine.system


def _clock_mhz() -> float | None:
    """Present clock of the first processor where the kernel reports it."""
    try:
        return int(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq").read_text()) / 1e3
    except (OSError, ValueError):
        return None
