"""The simulated clock: deterministic, in order, and equal to a calculation by hand where one is possible."""

from dataclasses import replace
from pathlib import Path

import pytest

from dooly.batch import Batch, StepCost
from dooly.engine.settings import EngineSettings
from dooly.errors import SimulationError
from dooly.fit import Observation, fit_host
from dooly.host import POWER_LIMIT
from dooly.predict import NO_LIMIT, PowerLimit
from dooly.simulate import Run, Trace, TraceRequest, shipped_trace, simulate, simulate_fast, summarize

MODELS = Path(__file__).parents[2] / "dooly" / "models"
SETTINGS = EngineSettings(max_num_seqs=4, max_num_batched_tokens=64, max_model_len=256)


def trace_of(*rows: tuple[float, int, int]) -> Trace:
    return Trace("test", tuple(TraceRequest(*row) for row in rows))


def affine(batch: Batch) -> float:
    return 1e-3 + 1e-5 * batch.tokens


@pytest.mark.engine
def test_one_request_by_hand(models: dict[str, Path]) -> None:
    run = simulate(models["llama"], trace_of((0, 100, 3)), lambda batch: batch.tokens / 1000, SETTINGS)
    assert [step.batch.requests for step in run.steps] == [((64, 0),), ((36, 64),), ((1, 100),), ((1, 101),)]
    assert [step.batch.kind for step in run.steps] == ["prefill", "prefill", "decode", "decode"]
    (request,) = run.requests
    assert request.first_token_s == pytest.approx(0.1)
    assert request.finish_s == pytest.approx(0.102)
    assert request.tpot_s == pytest.approx(0.001)


@pytest.mark.engine
def test_arrivals_wait_for_the_step_under_way(models: dict[str, Path]) -> None:
    run = simulate(models["llama"], trace_of((0, 10, 5), (0.5, 10, 1), (9.0, 10, 1)), lambda batch: 1.0, SETTINGS)
    assert [len(step.batch.requests) for step in run.steps] == [1, 2, 1, 1, 1, 1]
    assert [r.ttft_s for r in run.requests] == pytest.approx([1.0, 1.5, 1.0])
    assert run.steps[-1].start_s == 9.0


@pytest.mark.engine
def test_host_time_adds_up_in_a_synchronous_engine(models: dict[str, Path]) -> None:
    run = simulate(models["llama"], trace_of((0, 10, 4)), lambda batch: StepCost(100, 700, 200, 1000), SETTINGS)
    assert run.requests[0].first_token_s == pytest.approx(1e-3)
    assert run.requests[0].finish_s == pytest.approx(4e-3)
    assert [step.total_us for step in run.steps] == pytest.approx([1000] * 4)
    assert [step.start_s for step in run.steps] == pytest.approx([0, 1e-3, 2e-3, 3e-3])


@pytest.mark.engine
def test_host_time_is_hidden_in_an_asynchronous_engine(models: dict[str, Path]) -> None:
    settings = EngineSettings(4, 64, 256, async_scheduling=True)
    run = simulate(models["llama"], trace_of((0, 10, 4)), lambda batch: StepCost(100, 700, 200, 1000), settings)
    assert run.requests[0].first_token_s == pytest.approx(1e-3)
    # Steps follow one another on the device: each costs 700 us instead of 1000.
    assert run.requests[0].finish_s == pytest.approx(1e-3 + 3 * 0.7e-3)


@pytest.mark.engine
@pytest.mark.parametrize(("asynchronous", "later_ms"), [(False, 1.1), (True, 0.7)])
def test_an_idle_device_waits_for_its_first_kernel(
    models: dict[str, Path], asynchronous: bool, later_ms: float
) -> None:
    cost = StepCost(100, 700, 200, 1100, launch_us=150, lead_us=100)
    settings = replace(SETTINGS, async_scheduling=asynchronous)
    run = simulate(models["llama"], trace_of((0, 10, 4)), lambda batch: cost, settings)
    assert run.requests[0].first_token_s == pytest.approx(1.1e-3)
    assert run.requests[0].finish_s == pytest.approx(1.1e-3 + 3 * later_ms / 1e3)


def forty_tokens(
    models: dict[str, Path], cost: StepCost, settings: EngineSettings, fast: bool, power: PowerLimit = NO_LIMIT
) -> Run:
    """One request of ten tokens that gets forty, by the engine's scheduler or the compact one."""
    trace = trace_of((0, 10, 40))
    if fast:
        return simulate_fast("llama", trace, lambda batch: cost, settings, power=power)
    return simulate(models["llama"], trace, lambda batch: cost, settings, power=power)


@pytest.mark.engine
@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize(("asynchronous", "later_ms"), [(False, 1.0), (True, 0.75)])
def test_a_device_copies_the_inputs_of_the_next_step_between_two(
    models: dict[str, Path], asynchronous: bool, later_ms: float, fast: bool
) -> None:
    cost = StepCost(100, 700, 200, 1000, launch_us=150, between_us=50)
    settings = replace(SETTINGS, async_scheduling=asynchronous)
    run = forty_tokens(models, cost, settings, fast)
    assert run.requests[0].first_token_s == pytest.approx(1e-3)
    assert run.requests[0].finish_s == pytest.approx((1.0 + 39 * later_ms) / 1e3, abs=0.06e-3)


@pytest.mark.engine
@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_steps_that_keep_the_device_busy_meet_its_power_limit(
    models: dict[str, Path], asynchronous: bool, fast: bool
) -> None:
    """Forty steps of 20 ms; after 30 ms of work it takes a fifth longer."""
    held = [Observation((("U", u),), None, u + 0.2 * max(0, u - 30_000)) for u in range(10_000, 200_000, 5_000)]
    cost = StepCost(10, 20_000, 10, 20_020, work_us=20_000)
    settings = replace(SETTINGS, async_scheduling=asynchronous)
    run = forty_tokens(models, cost, settings, fast, PowerLimit(fit_host(POWER_LIMIT, held)))
    assert run.requests[0].first_token_s == pytest.approx(0.020, rel=2e-3)
    assert run.requests[0].finish_s == pytest.approx(0.020 + 0.022 + 38 * 0.024, rel=4e-3)


@pytest.mark.engine
@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize(("asynchronous", "first_ms", "later_ms"), [(False, 1.05, 1.05), (True, 1.1, 0.75)])
def test_what_is_planned_late_waits_for_the_step_before(
    models: dict[str, Path], asynchronous: bool, first_ms: float, later_ms: float, fast: bool
) -> None:
    """Asynchronously the next step is planned, too, before the tokens of one are taken."""
    cost = StepCost(150, 700, 200, 1050, plan_us=50)
    settings = replace(SETTINGS, async_scheduling=asynchronous)
    run = forty_tokens(models, cost, settings, fast)
    assert run.requests[0].first_token_s == pytest.approx(first_ms / 1e3)
    assert run.requests[0].finish_s == pytest.approx((first_ms + 39 * later_ms) / 1e3, abs=0.06e-3)


@pytest.mark.engine
@pytest.mark.parametrize("asynchronous", [False, True])
def test_deterministic_and_in_order(models: dict[str, Path], asynchronous: bool) -> None:
    trace = shipped_trace("azure-conv").first(60).clip(256).at_rate(20)
    settings = EngineSettings(8, 128, 256, num_blocks=24, async_scheduling=asynchronous)
    reports: list[tuple[int, int]] = []
    first = simulate(models["llama"], trace, affine, settings, progress=lambda done, all_: reports.append((done, all_)))
    second = simulate(models["llama"], trace, affine, settings)
    assert (first.requests, first.steps) == (second.requests, second.steps)
    assert reports == [(done, 60) for done in range(1, 61)]
    assert first.clipped == trace.clipped > 0
    for request, expected in zip(first.requests, trace.requests, strict=True):
        assert request.arrival_s < request.first_token_s <= request.finish_s
        assert (request.prompt_tokens, request.output_tokens) == (expected.prompt_tokens, expected.output_tokens)
    starts = [step.start_s for step in first.steps]
    assert starts == sorted(starts)
    assert all(step.batch.tokens <= 128 and len(step.batch.requests) <= 8 for step in first.steps)
    assert summarize(first).preemptions > 0


@pytest.mark.engine
def test_large_models_need_no_memory_and_keep_their_settings() -> None:
    """70 B parameters, prefix caching, 28,982 blocks: what the CPU platform would change is what was asked for."""
    model = MODELS / "llama-3.1-70b"
    settings = EngineSettings(
        128, 2048, 8192, block_size=16, num_blocks=28982, prefix_caching=True, async_scheduling=True
    )
    run = simulate(model, shipped_trace("azure-conv").first(20), affine, settings)
    assert run.clipped == 0
    assert max(step.batch.tokens for step in run.steps) <= 2048


def test_requests_that_do_not_fit() -> None:
    with pytest.raises(SimulationError, match="request 2 needs 257 tokens, but max_model_len is 256; raise"):
        simulate("nowhere", trace_of((0, 10, 4), (0, 250, 7)), affine, SETTINGS)


def test_missing_model(tmp_path: Path) -> None:
    with pytest.raises(SimulationError, match=r"no config\.json there"):
        simulate(tmp_path, trace_of((0, 10, 4)), affine, SETTINGS)


@pytest.mark.engine
@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_step_times(models: dict[str, Path], seconds: float) -> None:
    with pytest.raises(SimulationError, match="step time of 10 tokens in 1 requests is"):
        simulate(models["llama"], trace_of((0, 10, 4)), lambda batch: seconds, SETTINGS)


@pytest.mark.engine
@pytest.mark.parametrize(
    ("config", "message"),
    [
        ('{"architectures": ["NoSuchModel"], "model_type": "llama"}', "the engine refuses it"),
        ('{"model_type": "no-such-type"}', "the engine refuses it"),
        ("not JSON", "not a JSON object"),
    ],
)
def test_models_that_the_engine_refuses(tmp_path: Path, config: str, message: str) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(SimulationError, match=message) as caught:
        simulate(tmp_path, trace_of((0, 10, 4)), affine, SETTINGS)
    assert "\n" not in str(caught.value)


@pytest.mark.engine
def test_lengths_beyond_the_model(models: dict[str, Path]) -> None:
    with pytest.raises(SimulationError, match="the engine refuses it") as caught:
        simulate(models["llama"], trace_of((0, 10, 4)), affine, EngineSettings(max_model_len=4096))
    assert "\n" not in str(caught.value)
