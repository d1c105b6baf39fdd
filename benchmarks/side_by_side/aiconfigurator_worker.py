"""AIConfigurator's step times, for `benchmarks/step_errors.py`; runs where `aiconfigurator-core` is installed.

Reads one JSON object from stdin and writes the step times, us, as a JSON list to stdout.  AIConfigurator knows steps by
their mean: requests that decode, prompts, and both together, each with one length.
"""

import json
import sys
from statistics import fmean
from typing import Any


def main() -> None:
    """Answer one question."""
    out, sys.stdout = sys.stdout, sys.stderr
    asked = json.load(sys.stdin)
    from aiconfigurator_core.sdk.engine import EngineHandle

    try:
        engine = EngineHandle.compile(asked["model"], asked["system"], "vllm", tp_size=asked["tp"])
    except ValueError as error:
        sys.exit(f"AIConfigurator: {str(error).splitlines()[0][:120]}")
    json.dump([1e3 * step_ms(engine, batch) for batch in asked["batches"]], out)


def step_ms(engine: Any, batch: list[list[int]]) -> float:
    """One step of requests as [new, cached] tokens.

    A mixed step is asked twice, so that each kind of attention gets the length of its own requests.
    """
    decodes = [cached for new, cached in batch if new == 1 and cached > 0]
    prompts = [(new, cached) for new, cached in batch if new > 1 or cached == 0]
    context = round(fmean(decodes)) if decodes else 0
    if not prompts:
        return float(engine.predict_decode_latency(len(decodes), context, 2))
    length, prefix = (round(fmean(values)) for values in zip(*prompts, strict=True))
    if not decodes:
        return float(engine.predict_prefill_latency(len(prompts), length + prefix, prefix))
    tokens = sum(new for new, _ in prompts)
    _, shared, prefill, _ = engine.mixed_step_breakdown(tokens, len(decodes), length + prefix, 2, prefix)
    *_, decode = engine.mixed_step_breakdown(tokens, len(decodes), context, 2)
    return float(shared + prefill + decode)


if __name__ == "__main__":
    main()
