"""Record `vllm serve` under a ladder of loads on this machine."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from dooly.engine.client import send
from dooly.engine.loads import Load
from dooly.engine.plugin import STEPS_FOLDER, require_plugin
from dooly.engine.server import Server, serving
from dooly.engine.settings import model_folder
from dooly.engine.weights import NAME as RANDOM_WEIGHTS
from dooly.evaluate.ladder import LADDER, warm_up
from dooly.evaluate.metadata import host_facts
from dooly.evaluate.served import Served, ServedLoad
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
    keep: Callable[[Served], None] = lambda _: None,
    note: Callable[[str], None] = lambda _: None,
) -> Served:
    """Start `vllm serve` with these flags, send each load `repeats` times with vLLM's own client, and keep all of it.

    Weights are random unless the flags name a load format; prompts are random and differ between runs.  A few
    requests that nobody looks at warm the server up.

    Args:
        model: folder with config.json, or that file.
        flags: of `vllm serve`, after the model.
        repeats: how often the whole ladder is run.
        keep: given what there is after each load, so that nothing is lost when a later one fails.
        note: told in a line what was measured.

    Raises:
        SimulationError: the server does not start, refuses a load, or dooly's plug-in is not installed.
    """
    require_plugin()
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
            server.bench(warm_up(ladder).options(_SEED, "warm-"))
            for turn in range(repeats):
                for place, each in enumerate(ladder):
                    seed = _SEED + 1 + place + turn * len(ladder)
                    taken = _run(server, each, seed, turn, steps)
                    served = replace(served, loads=(*served.loads, taken))
                    keep(served)
                    note(_line(taken))
    return served


def _run(server: Server, load: Load, seed: int, turn: int, steps: Path) -> ServedLoad:
    before = server.counts()
    cpu_s = time.process_time()
    seen = send(server, load, seed, steps)
    cpu_s = time.process_time() - cpu_s
    counts: dict[str, float] = server.counts_since(before)
    return ServedLoad(
        load=load,
        seed=seed,
        turn=turn,
        result=tuple(sorted(seen.result.items())),
        counts=tuple(sorted({**counts, "client_cpu_seconds": round(cpu_s, 6)}.items())),
        requests=seen.requests,
        steps=seen.steps,
    )


def _line(load: ServedLoad) -> str:
    result, counts = dict(load.result), dict(load.counts)
    return (
        f"{load.load.name}, pass {load.turn + 1}: {result['output_throughput']:.0f} output tokens/s, "
        f"TTFT {result['median_ttft_ms']:.1f} ms, TPOT {result['median_tpot_ms']:.2f} ms (medians), "
        f"{len(load.steps)} steps, {counts.get('prompt_tokens', 0):.0f} prompt tokens, "
        f"{counts.get('prefix_cache_hits', 0):.0f} of them cached"
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
