"""How much faster than real time a simulation runs, on one core: ``python benchmarks/simulation.py [--engine]``.

Llama-3.1-8B-like step times (the synthetic formulas of `benchmarks/step_time.py`: about 7 ms for a decode step of one
request), 1,000-token prompts and 200-token outputs on average, 28,982 KV blocks of 16 tokens, 128 sequences, 2,048
tokens a step.  Prints simulated seconds per second, for the compact scheduler and, with ``--engine``, for vLLM's own.
"""
# ruff: noqa: T201 - a script prints

import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from step_time import model

from dooly.engine.settings import EngineSettings
from dooly.simulate import Run, Trace, TraceRequest, simulate, simulate_fast

CONFIG = """{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096,
"intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
"vocab_size": 128256, "torch_dtype": "bfloat16", "max_position_embeddings": 131072, "rms_norm_eps": 1e-05,
"hidden_act": "silu", "tie_word_embeddings": false}"""


def poisson(rate: float, count: int) -> Trace:
    """Exponential gaps and lengths."""
    rng = random.Random(1)
    arrival, requests = 0.0, list[TraceRequest]()
    for _ in range(count):
        prompt, output = (min(4000, 1 + int(rng.expovariate(1 / mean))) for mean in (1000, 200))
        requests.append(TraceRequest(arrival, prompt, output))
        arrival += rng.expovariate(rate)
    return Trace(f"{rate:g} requests/s", tuple(requests))


def report(name: str, serve: Callable[[], Run]) -> None:
    """One line; the best of three in processor time."""
    best, run = float("inf"), None
    for _ in range(3):
        start = time.process_time()
        run = serve()
        best = min(best, time.process_time() - start)
    assert run is not None
    simulated_s = max(request.finish_s for request in run.requests)
    print(
        f"{name:46}{run.trace:16}{run.mean_running:9.1f}{run.step_count:9,d}{simulated_s:13,.1f}{best:9.2f}"
        f"{simulated_s / best:13,.0f}{best / run.step_count * 1e6:11.1f}",
        flush=True,
    )


def main() -> None:
    """Print the table."""
    steps = model()
    titles = f"{'running':>9}{'steps':>9}{'simulated s':>13}{'cpu s':>9}{'x real time':>13}{'us a step':>11}"
    print(f"{'':46}{'load':16}{titles}")
    folder = Path(tempfile.mkdtemp())
    (folder / "config.json").write_text(CONFIG)
    for rate in (1.0, 4.0, 20.0):
        for caching in (False, True):
            for overlapped in (False, True):
                settings = EngineSettings(128, 2048, 8192, 16, 28982, caching, overlapped)
                name = f"{'prefix cache, ' if caching else ''}{'asynchronous' if overlapped else 'synchronous'}"
                trace, short = poisson(rate, 2000), poisson(rate, 300)
                report(f"compact, {name}", lambda t=trace, s=settings: simulate_fast("llama", t, steps.step_time, s))
                if "--engine" in sys.argv:
                    report(f"vLLM, {name}", lambda t=short, s=settings: simulate(folder, t, steps.step_time, s))


if __name__ == "__main__":
    main()
