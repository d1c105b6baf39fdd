"""Record `vllm serve` under a ladder of loads on this machine."""

from __future__ import annotations

import math
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from dooly.engine.plugin import STEPS_FOLDER, load
from dooly.engine.server import Server, serving
from dooly.engine.settings import model_folder
from dooly.engine.step_log import LoggedRequest, LoggedStep, read_step_log
from dooly.engine.weights import NAME as RANDOM_WEIGHTS
from dooly.errors import SimulationError
from dooly.evaluate.loads import LADDER, WARM_UP, Load
from dooly.evaluate.metadata import host_facts
from dooly.evaluate.served import Served, ServedLoad, ServedRequest
from dooly.hardware.software import device_name, driver_version, gpu_present, installed

__all__ = ["record_served"]

_PACKAGES = ("fastapi", "uvicorn", "uvloop", "pyzmq", "aiohttp")
_SEED = 100
_OF_CACHE = ("num_gpu_blocks", "block_size", "enable_prefix_caching", "gpu_memory_utilization", "cache_dtype")


def record_served(
    model: str | Path,
    flags: Sequence[str] = (),
    ladder: Sequence[Load] = LADDER,
    *,
    repeats: int = 2,
    warm_up: Load | None = WARM_UP,
    keep: Callable[[Served], None] = lambda _: None,
    note: Callable[[str], None] = lambda _: None,
) -> Served:
    """Start `vllm serve` with these flags, send each load `repeats` times with vLLM's own client, and keep all of it.

    Weights are random unless the flags name a load format; prompts are random and differ between runs.

    Args:
        model: folder with config.json, or that file.
        flags: of `vllm serve`, after the model.
        repeats: how often the whole ladder is run.
        warm_up: sent first, and forgotten.
        keep: given what there is after each load, so that nothing is lost when a later one fails.
        note: told in a line what was measured.

    Raises:
        SimulationError: the server does not start, refuses a load, or dooly's plug-in is not installed.
    """
    _require_plugin()
    if not any(flag.partition("=")[0] == "--load-format" for flag in flags):
        flags = (*flags, "--load-format", RANDOM_WEIGHTS)
    source = model_folder(model)
    with tempfile.TemporaryDirectory(prefix="dooly-serve-") as name:
        folder, steps = Path(name), Path(name) / "steps"
        steps.mkdir()
        (served_folder := folder / "server").mkdir()
        with serving(source, flags, served_folder, {STEPS_FOLDER: str(steps)}) as server:
            note(f"{source.name} is served after {server.start_s:.0f} s")
            config = (source / "config.json").read_text(encoding="utf-8")
            served = Served(source.name, config, tuple(flags), _facts(server), ())
            if warm_up is not None:
                server.bench(warm_up.options(_SEED, "warm-"))
            for turn in range(repeats):
                for place, each in enumerate(ladder):
                    seed = _SEED + 1 + place + turn * len(ladder)
                    taken = _run(server, each, seed, turn, steps)
                    served = replace(served, loads=(*served.loads, taken))
                    keep(served)
                    note(_line(taken))
    return served


def _require_plugin() -> None:
    """Make sure that vLLM will load the plug-in.

    Raises:
        SimulationError: dooly is only on the path, not installed.
    """
    if not any(
        each.value == f"{load.__module__}:{load.__name__}" for each in entry_points(group="vllm.general_plugins")
    ):
        raise SimulationError("vLLM does not find dooly's plug-in, which logs the steps; install dooly: pip install .")


def _run(server: Server, load: Load, seed: int, turn: int, steps: Path) -> ServedLoad:
    prefix = f"{load.name}-{seed}-"
    before = server.counts()
    cpu_s = time.process_time()
    result = server.bench(load.options(seed, prefix))
    cpu_s = time.process_time() - cpu_s
    after = server.counts()
    after.subtract(before)
    after["client_cpu_seconds"] = cpu_s  # pyright: ignore[reportArgumentType]
    numbers = {name: float(value) for name, value in result.items() if isinstance(value, int | float)}
    origin_s = min(result["start_times"])
    logged = [read_step_log(path) for path in sorted(steps.glob("*.bin"))]
    asked, taken = _own(logged, prefix, origin_s)
    return ServedLoad(
        load=load,
        seed=seed,
        turn=turn,
        result=tuple(sorted(numbers.items())),
        counts=tuple(sorted((name, round(value, 6)) for name, value in after.items() if value)),
        requests=tuple(_requests(result, asked, taken, origin_s)),
        steps=tuple(taken),
    )


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


def _line(load: ServedLoad) -> str:
    result, counts = dict(load.result), dict(load.counts)
    return (
        f"{load.load.name}, pass {load.turn + 1}: {result['output_throughput']:.0f} output tokens/s, "
        f"TTFT {result['median_ttft_ms']:.1f} ms, TPOT {result['median_tpot_ms']:.2f} ms (medians), "
        f"{len(load.steps)} steps, {counts.get('prompt_tokens', 0):.0f} prompt tokens, {counts.get('prefix_cache_hits', 0):.0f} of them cached"
    )


def _facts(server: Server) -> tuple[tuple[str, str], ...]:
    """Sorted (name, value) of this machine, its software, and the server's KV cache."""
    cache = server.cache()
    facts = host_facts() | {
        "start_s": f"{server.start_s:.1f}",
        **{name: found for name in _PACKAGES if (found := installed(name))},
        **{name: cache[name] for name in _OF_CACHE if name in cache},
    }
    if gpu_present():
        facts |= {"device": device_name(), "driver": driver_version()}
    return tuple(sorted(facts.items()))
