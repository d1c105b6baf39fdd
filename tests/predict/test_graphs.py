"""CUDA graphs: the engine's own dispatcher decides as the plan does, and many steps are dispatched as each is."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dooly.batch import MODES
from dooly.errors import PredictError
from dooly.predict import GraphPlan

LIMITS = ((8, 2048), (100, 8192), (256, 8192), (600, 1000), (64, 96))
ENGINE = """
import json
import sys
from pathlib import Path

from dooly.engine.platforms import activate

activate("h100")
import dooly
from dooly.engine.settings import EngineSettings, engine_config
from vllm.v1.cudagraph_dispatcher import CudagraphDispatcher

model = Path(dooly.__path__[0]) / "models" / "llama-3.1-8b"
for seqs, tokens in json.loads(sys.argv[1]):
    config = engine_config(model, EngineSettings(seqs, tokens, 64, 16, 10), enforce_eager=False)
    dispatcher = CudagraphDispatcher(config)
    dispatcher.initialize_cudagraph_keys(config.compilation_config.cudagraph_mode, 1)
    steps = [(count, uniform) for count in range(1, 601) for uniform in (True, False)]
    steps = [(count, uniform) for count, uniform in steps if count <= (seqs if uniform else tokens)]
    chosen = [dispatcher.dispatch(count, uniform_decode=uniform) for count, uniform in steps]
    rows = [(*step, mode.name, shape.num_tokens) for step, (mode, shape) in zip(steps, chosen)]
    print(json.dumps([seqs, tokens, config.compilation_config.cudagraph_capture_sizes, rows]))
"""

plans = st.builds(GraphPlan.of, st.integers(1, 600), st.integers(1, 9000))
steps = st.lists(st.tuples(st.integers(1, 700), st.integers(1, 700)), min_size=1, max_size=8)


@pytest.mark.engine
def test_the_engines_dispatcher_decides_alike() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ENGINE, json.dumps(LIMITS)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    seen = set()
    for line in done.stdout.splitlines():
        seqs, tokens, sizes, rows = json.loads(line)
        plan = GraphPlan.of(seqs, tokens)
        assert list(plan.sizes) == sizes
        for count, uniform, mode, padded in rows:
            if uniform or count > 1:  # one token is always one request's
                assert plan.at(count, count if uniform else count - 1) == (mode, padded)
        seen.add((seqs, tokens))
    assert seen == set(LIMITS)


@given(plans, steps)
def test_many_steps_are_dispatched_as_each(plan: GraphPlan, pairs: list[tuple[int, int]]) -> None:
    tokens = np.array([max(pair) for pair in pairs])
    requests = np.array([min(pair) for pair in pairs])
    modes, padded = plan.many(tokens, requests)
    each = [plan.at(max(pair), min(pair)) for pair in pairs]
    assert [(MODES[mode], size) for mode, size in zip(modes.tolist(), padded.tolist(), strict=True)] == each
    assert all(size >= count for (_, size), count in zip(each, tokens.tolist(), strict=True))


def test_limits_that_make_no_sense() -> None:
    with pytest.raises(PredictError, match="expected at least 1 of each"):
        GraphPlan.of(0, 512)
    with pytest.raises(PredictError, match="do not ascend"):
        GraphPlan.read({"sizes": [4, 2], "most_requests": 4})
