"""The result is the benchmark's: its own functions, given the same requests, find the same figures, keys and block."""

import argparse
import asyncio
import json
import math
from pathlib import Path
from typing import Any

import pytest

from dooly.batch import StepBatch, StepCost
from dooly.bench import Arrivals, Asked, Bench, RampUp, RandomPrompts, measure
from dooly.bench.datasets import random_prompts
from dooly.bench.load import arriving
from dooly.engine.settings import EngineSettings
from dooly.errors import SimulationError
from dooly.simulate import Trace, TraceRequest, simulate_fast

EVERY = ("ttft", "tpot", "itl", "e2el", "client_queue_time", "e2el_including_client_queue")
ASKED = Asked(EVERY, (50.0, 99.0, 99.9), {"ttft": 400.0, "tpot": 12.0, "e2el": 5000.0}, details=True)


def cost(batch: StepBatch) -> StepCost:
    device_us = 4000.0 + 20 * batch.tokens
    return StepCost(256.0, device_us, 64.0, 320.0 + device_us)


def served(arrivals: Arrivals, concurrency: int | None, count: int = 40) -> Bench:
    lengths = RandomPrompts(200, 20, 0.9, 0.95)
    load = arriving("random", random_prompts(lengths, count, seed=1), arrivals)
    settings = EngineSettings(8, 512, 1024, 16, 100, async_scheduling=True)
    run = simulate_fast("small", load, cost, settings, concurrency=concurrency)
    return measure(run, load, arrivals, concurrency)


LOADS: dict[str, tuple[Arrivals, int | None, tuple[str, ...]]] = {
    "closed loop": (Arrivals(), 4, ("--max-concurrency", "4")),
    "rate": (Arrivals(20.0), None, ("--request-rate", "20")),
    "rate and limit": (Arrivals(20.0), 3, ("--request-rate", "20", "--max-concurrency", "3")),
    "ramp-up": (
        Arrivals(ramp_up=RampUp("linear", 5, 9)),
        None,
        ("--ramp-up-strategy", "linear", "--ramp-up-start-rps", "5", "--ramp-up-end-rps", "9"),
    ),
}


@pytest.mark.engine
@pytest.mark.parametrize("load", LOADS)
def test_the_benchmarks_own_functions_find_the_same(
    load: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arrivals, concurrency, options = LOADS[load]
    ours = served(arrivals, concurrency)
    expected, printed = theirs(ours, options, tmp_path / "result.json", monkeypatch, capsys)
    found = ours.json(ASKED, None, None)
    assert list(found) == list(expected)
    measured = {"date", "endpoint_type", "backend", "model_id", "tokenizer_id", "duration", "rps_change_events"}
    rates = {"request_throughput", "request_goodput", "output_throughput", "total_token_throughput"}
    for name in set(found) - measured - rates:
        assert found[name] == approximately(expected[name]), name
    for name in rates:  # the benchmark takes the time of day
        assert found[name] * found["duration"] == pytest.approx(expected[name] * expected["duration"]), name
    labels = [line[:40].strip() for line in ours.block(ASKED, 2).splitlines()]
    del labels[-4:-1]
    assert labels == [line[:40].strip() for line in printed[printed.index("= Serving") - 11 :].splitlines()]


def approximately(value: Any) -> Any:
    if isinstance(value, list) and value and isinstance(value[0], list):
        return [pytest.approx(row) for row in value]
    return pytest.approx(value) if isinstance(value, (list, float)) else value


def theirs(
    ours: Bench, options: tuple[str, ...], path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> tuple[dict[str, Any], str]:
    """What the benchmark saves and prints if its requests go as in `ours`."""
    from vllm.benchmarks import serve
    from vllm.benchmarks.datasets import SampleRequest
    from vllm.benchmarks.lib.endpoint_request_func import RequestFuncOutput

    requests = ours.run.requests
    samples = [SampleRequest("", r.prompt_tokens, r.output_tokens, request_id=str(i)) for i, r in enumerate(requests)]

    async def send(request_func_input: Any, session: Any, pbar: Any = None) -> Any:
        index = int(request_func_input.request_id)
        return RequestFuncOutput(
            success=True,
            latency=float(ours.e2el_s[index]),
            output_tokens=requests[index].output_tokens,
            ttft=float(ours.ttft_s[index]),
            itl=ours.itl_s[index].tolist(),
            prompt_len=requests[index].prompt_tokens,
            start_time=float(ours.sent_s[index]),
        )

    async def unchanged(_: Any, __: Any, prompts: Any, ___: Any) -> Any:
        return prompts

    async def nothing(*_: Any) -> None:
        return None

    async def at_once(requests_given: Any, rate: float, burstiness: float, *ramp: Any) -> Any:
        for index, request in enumerate(requests_given):
            yield request, serve._get_current_request_rate(*ramp[:3], index, len(requests_given), rate)

    monkeypatch.setitem(serve.ASYNC_REQUEST_FUNCS, "vllm", send)
    monkeypatch.setattr(serve, "get_tokenizer", lambda *_, **__: object())
    monkeypatch.setattr(serve, "get_samples", lambda *_: samples)
    monkeypatch.setattr(serve, "_align_prompts_to_server_tokenizer", unchanged)
    monkeypatch.setattr(serve, "fetch_spec_decode_metrics", nothing)
    monkeypatch.setattr(serve, "fetch_diffusion_metrics", nothing)
    monkeypatch.setattr(serve, "get_request", at_once)
    monkeypatch.setattr(serve, "freeze_gc_heap", lambda: None)
    command = ["--backend", "vllm", "--model", "small", "--dataset-name", "random", "--num-prompts", str(len(requests))]
    command += ["--percentile-metrics", ",".join(EVERY), "--metric-percentiles", "50,99,99.9", "--disable-tqdm"]
    command += [
        "--goodput",
        *(f"{name}:{limit}" for name, limit in ASKED.goodput.items()),
        "--ready-check-timeout-sec",
        "0",
    ]
    command += ["--save-result", "--save-detailed", "--result-filename", str(path), *options]
    parser = argparse.ArgumentParser()
    serve.add_cli_args(parser)  # pyright: ignore[reportArgumentType]
    capsys.readouterr()
    asyncio.run(serve.main_async(parser.parse_args(command)))
    content: dict[str, Any] = json.loads(path.read_text())
    content["queue_times"] = ours.queue_s.tolist()  # those of the benchmark are of the time of day
    for name in [name for name in content if "client_queue" in name]:
        content[name] = ours.statistics(name.split("_", 1)[1].removesuffix("_ms"), ASKED)[name]
    return content, capsys.readouterr().out


def test_a_client_with_one_seat_sends_one_at_a_time() -> None:
    ours = served(Arrivals(), 1)
    assert ours.sent_s[1:] == pytest.approx(ours.sent_s[:-1] + ours.e2el_s[:-1])
    assert ours.queue_s == pytest.approx(ours.sent_s)
    assert ours.figures(ASKED)["max_concurrent_requests"] >= 1
    assert ours.duration_s == pytest.approx(ours.e2el_s.sum())


def test_a_rate_and_a_limit_together() -> None:
    free, limited = served(Arrivals(20.0), None), served(Arrivals(20.0), 3)
    assert (free.queue_s == 0).all()
    assert (limited.queue_s > 0).any()
    events = sorted([(t, 1) for t in limited.sent_s] + [(t, -1) for t in limited.sent_s + limited.e2el_s])
    running = most = 0
    for _, change in events:
        running += change
        most = max(most, running)
    assert most == 3


def test_gaps_of_tokens_are_a_population_and_add_up() -> None:
    ours = served(Arrivals(), 4)
    gaps = ours.population_s("itl")
    assert len(gaps) == sum(request.output_tokens - 1 for request in ours.run.requests)
    assert gaps.sum() == pytest.approx((ours.e2el_s - ours.ttft_s).sum())
    assert gaps.min() > 0


def test_one_token_has_no_time_per_token() -> None:
    load = Trace("one", (TraceRequest(0.0, 10, 1),))
    ours = measure(simulate_fast("small", load, cost, EngineSettings()), load, Arrivals(), None)
    assert ours.statistics("tpot", ASKED)["mean_tpot_ms"] == 0.0
    assert "Output tokens/s per user:                0.00" in ours.block(Asked(), 1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"metrics": ("ttft", "speed")}, "no metric 'speed'; expected some of ttft, tpot, itl"),
        ({"percentiles": (101.0,)}, "percentile 101; expected 0 to 100"),
        ({"goodput": {"itl": 3.0}}, "goodput itl:3; expected NAME:MS"),
        ({"goodput": {"ttft": math.nan}}, "goodput ttft:nan"),
    ],
)
def test_figures_that_nobody_has(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SimulationError, match=message):
        Asked(**fields)
