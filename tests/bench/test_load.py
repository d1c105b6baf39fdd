"""Loads: lengths and gaps are the benchmark's own draws, and bad options are one line."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dooly.bench import Arrivals, Dataset, RampUp, RandomPrompts
from dooly.errors import TraceError
from dooly.simulate import TraceRequest


def dataset(name: Any = "random", path: Path | None = None, **changes: Any) -> Dataset:
    fields: dict[str, Any] = {
        "tokenizer": None,
        "random": RandomPrompts(),
        "sharegpt_output_len": None,
        "custom_output_len": 256,
        "chunk": 16,
        "seconds": 1.0,
        "labels": ("timestamp", "input_length", "output_length"),
    }
    return Dataset(name, path, **{**fields, **changes})


def test_lengths_lie_evenly_in_their_range_and_a_seed_repeats_them() -> None:
    lengths = RandomPrompts(512, 100, 0.5, 0.2, prefix_len=30)
    load = dataset(random=lengths).load(4000, Arrivals(seed=3))
    inputs = np.array([request.prompt_tokens - 30 for request in load.requests])
    outputs = np.array([request.output_tokens for request in load.requests])
    assert (inputs.min(), inputs.max()) == (256, 768)
    assert (outputs.min(), outputs.max()) == (80, 120)
    assert inputs.mean() == pytest.approx(512, rel=0.02)
    assert {request.prefix for request in load.requests} == {(0,)}
    assert load == dataset(random=lengths).load(4000, Arrivals(seed=3))
    assert load != dataset(random=lengths).load(4000, Arrivals(seed=4))


@pytest.mark.engine
def test_lengths_and_gaps_are_the_draws_of_the_benchmark() -> None:
    from vllm.benchmarks.datasets.utils import get_sampling_params

    class Tokenizer:
        vocab_size = 1000

        def num_special_tokens_to_add(self) -> int:
            return 0

    tokenizer: Any = Tokenizer()
    inputs, outputs, _ = get_sampling_params(
        np.random.default_rng(7), 50, {"input": 0.3, "output": 0.9}, 300, 5, tokenizer
    )
    load = dataset(random=RandomPrompts(300, 5, 0.3, 0.9)).load(50, Arrivals(seed=7))
    assert [r.prompt_tokens for r in load.requests] == inputs.tolist()
    assert [r.output_tokens for r in load.requests] == outputs.tolist()
    draws = np.random.RandomState(7)  # the generator behind NumPy's own functions, which the benchmark draws from
    gaps = [draws.gamma(shape=0.5, scale=1 / (4 * 0.5)) for _ in range(50)]
    times = np.cumsum(gaps) * (50 / 4) / sum(gaps)
    assert Arrivals(4.0, 0.5, seed=7).times_s(50) == pytest.approx(times.tolist())


def test_a_ramp_up_raises_the_rate() -> None:
    times = Arrivals(burstiness=math.inf, ramp_up=RampUp("exponential", 1, 4)).times_s(3)
    assert times == pytest.approx([1.0, 1.5, 1.75])


def test_a_timed_trace_says_when(tmp_path: Path) -> None:
    rows = [{"timestamp": 1000 * i, "input_length": 20, "output_length": 3, "hash_ids": [0, i]} for i in range(3)]
    path = tmp_path / "timed.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    load = dataset("timed_trace", path, seconds=0.001).load(2, Arrivals())
    assert load.requests == (TraceRequest(0.0, 20, 3, (0, 0), 16), TraceRequest(1.0, 20, 3, (0, 1), 16))
    with pytest.raises(TraceError, match="give no rate beside it"):
        dataset("timed_trace", path).load(2, Arrivals(2.0))
    with pytest.raises(TraceError, match="5 seconds in a timestamp's unit"):
        dataset("timed_trace", path, seconds=5.0).load(2, Arrivals())


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """One that counts words."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    made = Tokenizer(models.WordLevel({"w": 0, "?": 1}, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_conversations_of_usual_lengths_repeat_where_there_are_too_few(tokenizer: Path) -> None:
    path = tokenizer / "sharegpt.json"
    texts = [("w " * 9, "w " * 5), ("w w", "w " * 50), ("w " * 2000, "w " * 9), ("w " * 40, "w " * 6)]
    turns = [{"conversations": [{"value": prompt}, {"value": answer}]} for prompt, answer in texts]
    path.write_text(json.dumps(turns))
    load = dataset("sharegpt", path, tokenizer=tokenizer).load(6, Arrivals())
    assert {(r.prompt_tokens, r.output_tokens) for r in load.requests} == {(9, 5), (40, 6)}
    assert len({r.prefix for r in load.requests}) == 2
    once = dataset("sharegpt", path, tokenizer=tokenizer, sharegpt_output_len=2).load(2, Arrivals())
    assert {(r.prompt_tokens, r.output_tokens, r.prefix) for r in once.requests} == {(9, 2, ()), (40, 2, ())}
    with pytest.raises(TraceError, match="give --tokenizer FOLDER"):
        dataset("sharegpt", path).load(2, Arrivals())


def test_custom_prompts(tokenizer: Path) -> None:
    path = tokenizer / "custom.jsonl"
    path.write_text('{"prompt": "w w w", "output_tokens": 7}\n{"prompt": "w"}\n')
    load = dataset("custom", path, tokenizer=tokenizer).load(2, Arrivals())
    assert {(r.prompt_tokens, r.output_tokens) for r in load.requests} == {(3, 256), (1, 256)}
    with pytest.raises(TraceError, match="line 2: expected a JSON object with prompt and output_tokens"):
        dataset("custom", path, tokenizer=tokenizer, custom_output_len=-1).load(2, Arrivals())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Arrivals(0.0), "request rate of 0; expected more than 0"),
        (lambda: Arrivals(1.0, math.nan), "burstiness of nan"),
        (lambda: Arrivals(1.0, ramp_up=RampUp("linear", 1, 2)), "give one of them"),
        (lambda: RampUp("linear", 3, 2), "do not fall"),
        (lambda: RandomPrompts(input_range=1.0), "range ratio of 1; expected 0 or more and less than 1"),
        (lambda: RandomPrompts(1, input_range=0.5), "allow an empty prompt"),
        (lambda: dataset("custom"), "give --dataset-path FILE"),
        (lambda: dataset("random", Path("a.json")), "random prompts come from no file"),
        (lambda: dataset().load(0, Arrivals()), "0 prompts; expected at least 1"),
    ],
)
def test_loads_that_are_none(make: Any, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        make()
