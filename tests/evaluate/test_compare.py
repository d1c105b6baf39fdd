"""Comparison of predicted with measured: known errors come out as known, by class, part and request."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from dooly.batch import Batch, StepCost
from dooly.engine.settings import EngineSettings
from dooly.errors import SimulationError
from dooly.evaluate.compare import compare, compare_requests, compare_steps, costs_along
from dooly.fit import Observation, fit_host
from dooly.host import POWER_LIMIT
from dooly.predict import PowerLimit
from dooly.simulate.records import RequestRecord, Run, StepRecord


def step(batch: Batch, total_us: float, device_us: float) -> StepRecord:
    return StepRecord(0.0, batch, 0.0, device_us, total_us - device_us, total_us)


def request(ttft_s: float, tpot_s: float, tokens: int = 3) -> RequestRecord:
    return RequestRecord(1.0, 1.0 + ttft_s, 1.0 + ttft_s + tpot_s * (tokens - 1), 8, tokens, 0, 0)


def cost(total_us: float, device_us: float) -> StepCost:
    return StepCost(0.0, device_us, total_us - device_us, total_us)


DECODE, PREFILL, MIXED = Batch.of((1, 50)), Batch.of((8, 0)), Batch.of((8, 0), (1, 50))
MEASURED = Run(
    "measured",
    "m",
    "t",
    EngineSettings(),
    0,
    (request(0.1, 0.01), request(0.2, 0.02), request(0.4, 0.0, tokens=1)),
    (step(DECODE, 100, 80), step(DECODE, 110, 80), step(PREFILL, 1000, 900), step(MIXED, 1100, 1000)),
    1.0,
)
PREDICTED = [cost(120, 80), cost(110, 88), cost(900, 900), cost(1100, 1050)]


def test_steps_by_class_and_part() -> None:
    errors = {(e.kind, e.part): e for e in compare_steps([MEASURED], [PREDICTED])}
    assert set(errors) == {(kind, part) for kind in ("decode", "prefill", "mixed") for part in ("total", "device")}
    decode = errors["decode", "total"]
    assert (decode.count, decode.measured_us, decode.predicted_us) == (2, 105, 115)
    assert decode.error_percent == pytest.approx(10)  # of 20 % and 0 %
    assert decode.error_p90_percent == pytest.approx(18)
    assert decode.bias_percent == pytest.approx(10)
    assert decode.noise_percent == pytest.approx(5 / 105 * 100)
    assert errors["decode", "device"].bias_percent == pytest.approx(5)
    assert errors["prefill", "total"].bias_percent == pytest.approx(-10)
    assert errors["prefill", "total"].noise_percent is None
    assert errors["mixed", "device"].error_percent == pytest.approx(5)


def test_predicted_steps_are_of_a_device_that_has_done_those_before() -> None:
    """Prompts of 40 ms in a row, then one after a pause; after 30 ms of work it takes a fifth longer."""
    held = [Observation((("U", u),), None, u + 0.2 * max(0, u - 30_000)) for u in range(10_000, 200_000, 5_000)]
    limit = PowerLimit(fit_host(POWER_LIMIT, held))
    rested_us, _ = limit.us(40_000)
    model = SimpleNamespace(
        power=limit, step_time=lambda _: StepCost(100, rested_us, 50, 150 + rested_us, work_us=40_000)
    )
    at = (0.0, 0.042, 0.090, 1.0)
    steps = tuple(replace(step(PREFILL, 45_000, 44_000), start_s=start_s) for start_s in at)
    first, second, third, rested = costs_along(model, replace(MEASURED, steps=steps))
    assert first.device_us == rested.device_us == pytest.approx(rested_us)
    assert [second.device_us, third.device_us] == pytest.approx([48_000, 48_000], rel=0.01)
    assert second.total_us - first.total_us == pytest.approx(second.device_us - first.device_us)


def test_classes_that_did_not_occur_are_left_out() -> None:
    run = replace(MEASURED, steps=MEASURED.steps[:2])
    assert {e.kind for e in compare_steps([run], [PREDICTED[:2]])} == {"decode"}


def test_requests() -> None:
    slower = replace(MEASURED, requests=(request(0.3, 0.03), request(0.2, 0.02), request(0.4, 0.0, tokens=1)))
    simulated = replace(MEASURED, requests=(request(0.2, 0.02), request(0.1, 0.03), request(0.4, 0.0, tokens=1)))
    ttft, tpot, e2e = compare_requests([MEASURED, slower], simulated)
    assert (ttft.metric, tpot.metric, e2e.metric) == ("ttft", "tpot", "e2e")
    assert ttft.mape_percent == pytest.approx((0 + 50 + 0) / 3)
    assert ttft.measured_ms == pytest.approx(200)
    assert ttft.p50_error_percent == pytest.approx(0)
    assert ttft.mean_error_percent == pytest.approx((0.7 / 0.8 - 1) * 100)
    assert ttft.noise_percent == pytest.approx((200 / 3 + 200 + 0 + 0 + 0 + 0) / 6)
    assert tpot.mape_percent == pytest.approx((0 + 50) / 2)  # the request with one token has none
    assert compare_requests([MEASURED], simulated)[0].noise_percent is None


def test_perfect_prediction_has_no_error() -> None:
    result = compare([MEASURED], [[cost(s.total_us, s.device_us) for s in MEASURED.steps]], MEASURED)
    assert all(e.error_percent == e.bias_percent == 0 for e in result.steps)
    assert all(e.mape_percent == 0 and e.p99_error_percent == 0 for e in result.requests)
    assert json.loads(json.dumps(result.json()))["runs"] == 1


def test_what_does_not_belong_together() -> None:
    with pytest.raises(SimulationError, match="differ in number"):
        compare_steps([MEASURED], [PREDICTED[:2]])
    with pytest.raises(SimulationError, match="different requests"):
        compare_requests([MEASURED], replace(MEASURED, requests=MEASURED.requests[:1]))
    with pytest.raises(SimulationError, match="nothing was measured"):
        compare_requests([], MEASURED)
