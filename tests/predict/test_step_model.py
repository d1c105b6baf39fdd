import random
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dooly.batch import MODES, Batch, BatchColumns
from dooly.errors import PredictError
from dooly.fit import Formula, Observation, fit, fit_host
from dooly.host import POWER_LIMIT, host_parts, is_host_part, launch_of
from dooly.ir.operation import Operation, Use
from dooly.ir.types import attributes
from dooly.predict import GraphPlan, StepModel
from dooly.predict.host import HostModel
from dooly.predict.sizes import columns_of
from dooly.predict.step_ops import collect_work
from tests.fit import laws

MODEL = "tiny"
TO_LOGITS = (("T", "L"),)
OPERATIONS = (
    laws.linear(512, 768, Use(MODEL, "layers.qkv", 4), Use("other", "layers.qkv", 99)),
    laws.norm(512, Use(MODEL, "layers.norm", 8), Use(MODEL, "norm", 1), Use(MODEL, "head_norm", 1, TO_LOGITS)),
    laws.linear(512, 32000, Use(MODEL, "lm_head", 1, TO_LOGITS)),
    laws.attention(Use(MODEL, "layers.attn", 2)),
    laws.attention(Use(MODEL, "layers.window", 2), window=64),
    laws.moe(Use(MODEL, "layers.mlp", 4)),
    Operation(
        "all_reduce",
        (laws.tensor("T", 512),),
        (laws.tensor("T", 512),),
        attributes(group="tp", ranks=1),
        uses=(Use(MODEL, "layers.reduce", 8),),
    ),
    laws.norm(77, Use("other", "norm", 1)),
)
PICKED = Operation(
    "index_select",
    (laws.tensor("T", 512), laws.tensor("L")),
    (laws.tensor("L", 512),),
    uses=(Use(MODEL, "model.norm", 1),),
)


def measured(operation: Operation, noise: random.Random) -> list[Observation]:
    """A roofline with enough scatter that residuals are kept."""

    def law(values: dict[str, float]) -> float:
        return (2.0 + laws.flops(operation, values) / 50e6 + laws.moved(operation, values) / 1e6) * noise.uniform(
            0.8, 1.2
        )

    if operation.target == "attention":
        window = 64 if "64" in str(dict(operation.attrs)["window"]) else None
        return laws.over_batches(law, laws.batches(), window)
    if operation.target == "moe":
        points = [(t, a) for t in (1, 4, 16, 64, 256, 1024) for a in (2, 4, 8) if a <= 2 * t]
        return [Observation((("A", a), ("T", t)), None, law({"A": float(a), "T": float(t)})) for t, a in points]
    return laws.over_tokens(law)


@pytest.fixture(scope="module")
def formulas() -> dict[str, Formula]:
    noise = random.Random(0)
    found = {op.signature: fit(op, measured(op, noise)) for op in OPERATIONS[:6]}
    rows = [
        Observation((("L", n), ("T", t)), None, 5.0 + n + 0.2 * t) for n in (1, 8, 64) for t in (1, 64, 512) if n <= t
    ]
    found[PICKED.signature] = fit(PICKED, rows)
    steps = [(r, t) for r in (1, 4, 16, 64) for t in (1, 64, 2048) if t >= r]
    for part, base in (("host_before", 400.0), ("host_after", 250.0)):
        rows = [Observation((("R", r), ("T", t)), None, base + 8.0 * r + 0.1 * t) for r, t in steps]
        found[part] = fit_host(part, rows)
    rows = [Observation((("N", n),), None, 10.0 + 5.0 * n) for n in (5, 30, 90)]
    found["host_dispatch"] = fit_host("host_dispatch", rows)
    return found


@pytest.fixture(scope="module")
def model(formulas: dict[str, Formula]) -> StepModel:
    return StepModel.build((*OPERATIONS, PICKED), formulas, MODEL)


@pytest.fixture(scope="module", params=["cpu", "gpu"])
def either(request: pytest.FixtureRequest, model: StepModel, formulas: dict[str, Formula]) -> StepModel:
    """On a CPU, or a GPU with a power limit whose host is slower than it in some steps and faster in others."""
    if request.param == "cpu":
        return model
    parts = dict(zip(map(launch_of, MODES), (1.0, 40.0, 90.0), strict=True))
    points = [(n, r) for n in (6, 30, 90) for r in (1, 8, 32)]
    launch = {
        part: fit_host(part, [Observation((("N", n), ("R", r)), None, 50.0 + each * n + r) for n, r in points])
        for part, each in parts.items()
    }
    launch["host_lead"] = fit_host("host_lead", [Observation((("R", r),), None, 50.0 + r) for _, r in points])
    held = [Observation((("U", u),), None, u + 0.2 * max(0, u - 1000)) for u in (300, 600, 1000, 2000, 4000, 50_000)]
    power = {POWER_LIMIT: fit_host(POWER_LIMIT, held)}
    return StepModel.build((*OPERATIONS, PICKED), formulas | launch | power, MODEL, graphs=GraphPlan.of(16, 512))


requests = st.lists(st.tuples(st.integers(1, 300) | st.just(1), st.integers(0, 1500)), min_size=1, max_size=20)
steps = st.builds(
    lambda pairs, share: Batch(tuple(pairs), round(share * len(pairs))), requests, st.sampled_from([0, 0.5, 1.0])
)


@given(steps)
def test_breakdown_adds_up(either: StepModel, batch: Batch) -> None:
    breakdown = either.breakdown(batch)
    cost = breakdown.cost
    assert sum(row.total_us for row in breakdown.rows) == pytest.approx(cost.total_us, rel=1e-12)
    assert cost.host_before_us + cost.span_us(idle=True) + cost.host_after_us == cost.total_us
    assert cost.span_us(idle=False) <= cost.span_us(idle=True) <= cost.span_us(idle=False) + cost.lead_us
    assert sum(row.share for row in breakdown.rows) == pytest.approx(1.0)
    assert cost.extrapolated == any(row.extrapolated for row in breakdown.rows)
    assert either.step_time(batch).total_us == pytest.approx(cost.total_us, rel=1e-12)
    assert either.step_time(batch).extrapolated == cost.extrapolated


@given(st.lists(steps, min_size=1, max_size=8))
def test_many_steps_cost_what_each_does(either: StepModel, batches: list[Batch]) -> None:
    times = either.step_times(batches)
    assert len(times) == len(batches)
    for i, cost in enumerate(map(either.step_time, batches)):
        assert (times.launch_us[i], times.lead_us[i]) == (cost.launch_us, cost.lead_us)
        assert times.host_before_us[i] == pytest.approx(cost.host_before_us, rel=1e-9)
        assert times.device_us[i] == pytest.approx(cost.device_us, rel=1e-9)
        assert times.host_after_us[i] == pytest.approx(cost.host_after_us, rel=1e-9)
        assert times.total_us[i] == pytest.approx(cost.total_us, rel=1e-9)
        assert bool(times.extrapolated[i]) == cost.extrapolated


def test_prompts_meet_the_power_limit(either: StepModel) -> None:
    decode, prompt = Batch.of(*[(1, 1500)] * 40), Batch.of((1, 40), (1500, 0))
    unlimited = StepModel(either.work, either.host, either.graphs)
    longer = [either.step_time(batch).device_us - unlimited.step_time(batch).device_us for batch in (decode, prompt)]
    rows = [
        sum(row.total_us for row in either.breakdown(batch).rows if row.kind == "power") for batch in (decode, prompt)
    ]
    assert rows == longer
    assert longer[0] == 0.0
    assert (longer[1] > 100.0) == (either.power.formula is not None)


def test_a_device_without_work_waits_for_a_whole_graph_only(either: StepModel) -> None:
    decode, mixed, large = Batch.of(*[(1, 40)] * 8), Batch.of((1, 40), (64, 0)), Batch.of((600, 0))
    leads = [either.step_time(batch).lead_us for batch in (decode, mixed, large)]
    assert leads[1:] == [0.0, 0.0]
    assert (leads[0] > 0.0) == (either.graphs is not None)


@pytest.mark.parametrize(("backend", "waits"), [("FLASHINFER", 2), ("FLASH_ATTN", 0)])
def test_attention_that_is_planned_late_adds_to_the_host(
    either: StepModel, formulas: dict[str, Formula], backend: str, waits: int
) -> None:
    """Once for layers that are alike: here those with a window and those without.  The device starts at once then."""
    operations = [_of_backend(each, backend) for each in (*OPERATIONS, PICKED)]
    renamed = {
        changed.signature: replace(formulas[each.signature], plan_us=(500.0, 700.0))
        for each, changed in zip((*OPERATIONS, PICKED), operations, strict=True)
        if each.signature in formulas
    }
    late = StepModel(collect_work(operations, formulas | renamed, MODEL), either.host, either.graphs)
    batch = Batch.of((1, 40), (1, 64))
    before, after = either.step_time(batch), late.step_time(batch)
    assert after.plan_us == waits * 500.0
    assert late.step_time(Batch.of((1, 40), (2, 64))).plan_us == waits * 700.0
    assert after.lead_us == (0.0 if waits else before.lead_us)
    assert after.host_before_us - before.host_before_us == pytest.approx(after.plan_us)
    longer_us = after.span_us(idle=True) - before.span_us(idle=True)
    assert after.total_us - before.total_us == pytest.approx(after.plan_us + longer_us)
    for each in (batch, Batch.of((1, 40), (2, 64))):
        cost = late.step_time(each)
        assert late.step_times([each]).lead_us[0] == late.breakdown(each).cost.lead_us == cost.lead_us
        assert late.step_times([each]).total_us[0] == late.breakdown(each).cost.total_us == cost.total_us


def test_flashinfer_takes_the_host_longer_where_requests_decode_beside_prompts(
    either: StepModel, formulas: dict[str, Formula]
) -> None:
    if either.host is None or not either.host.on_gpu:
        return
    operations = [_of_backend(each, "FLASHINFER") for each in (*OPERATIONS, PICKED)]
    renamed = {
        changed.signature: replace(formulas[each.signature], queued_us=300.0)
        for each, changed in zip((*OPERATIONS, PICKED), operations, strict=True)
        if each.signature in formulas
    }
    work = collect_work(operations, formulas | renamed, MODEL)
    in_engine = fit_host("host_flashinfer", [Observation((("R", r),), None, 200.0) for r in (2, 8, 64)])
    host = _queueing_takes(either.host, 100.0)
    alone = StepModel(work, host, either.graphs)
    served = StepModel(work, replace(host, formulas=host.formulas | {"host_flashinfer": in_engine}), either.graphs)
    usual = StepModel(work, either.host, either.graphs)
    steps = {
        "decode": Batch.of((1, 40), (1, 64)),
        "prompts": Batch.of((16, 0), (20, 0)),
        "mixed": Batch.of((1, 40), (16, 0)),
        "long": Batch.of((1, 40), (600, 0)),
    }
    found = {kind: served.step_time(batch).launch_us for kind, batch in steps.items()}
    before = {kind: usual.step_time(batch).launch_us for kind, batch in steps.items()}
    assert (found["decode"], found["prompts"]) == (before["decode"], before["prompts"])
    assert found["mixed"] - before["mixed"] == pytest.approx(4 * 200.0)
    assert found["long"] - before["long"] == pytest.approx(4 * 200.0)
    by_themselves = alone.step_time(steps["prompts"]).launch_us - before["prompts"]
    assert by_themselves == pytest.approx(4 * (300.0 - 125.0))  # what is known where it was not measured in the engine
    assert list(served.step_times(list(steps.values())).launch_us) == list(found.values())
    assert [served.breakdown(batch).cost.launch_us for batch in steps.values()] == list(found.values())


def test_what_a_gpu_does_between_two_steps_is_beside_the_total(either: StepModel, formulas: dict[str, Formula]) -> None:
    if either.host is None or not either.host.on_gpu:
        return
    between = [Observation((("R", r),), None, 45.0) for r in (1, 8, 64)]
    host = HostModel.of(formulas | either.host.formulas | {"host_between": fit_host("host_between", between)})
    batch = Batch.of(*[(1, 40)] * 8)
    model = StepModel(either.work, host, either.graphs)
    found, before = model.step_time(batch), either.step_time(batch)
    assert (found.between_us, before.between_us) == (pytest.approx(45.0, rel=1e-3), 0.0)
    assert found.total_us == before.total_us == model.breakdown(batch).cost.total_us
    assert model.breakdown(batch).cost.between_us == found.between_us


def test_experts_and_slow_attention_take_the_host_longer(either: StepModel, formulas: dict[str, Formula]) -> None:
    """In a graph of the whole step they take it no time at all."""
    queued = {"attention": 155.0, "moe": 400.0}
    slower = formulas | {
        each.signature: replace(formulas[each.signature], queued_us=queued.get(each.target, 0.0))
        for each in OPERATIONS[:6]
    }
    batches = {"FULL": Batch.of(*[(1, 40)] * 8), "PIECEWISE": Batch.of((1, 40), (16, 0)), "NONE": Batch.of((600, 0))}
    before = {mode: either.step_time(batch).launch_us for mode, batch in batches.items()}
    if either.host is None or not either.host.on_gpu:
        unchanged = StepModel(collect_work(OPERATIONS, slower, MODEL), either.host)
        assert [unchanged.step_time(batch).launch_us for batch in batches.values()] == [0.0, 0.0, 0.0]
        return
    host = _queueing_takes(either.host, 100.0)
    model = StepModel(collect_work((*OPERATIONS, PICKED), slower, MODEL), host, either.graphs)
    after = {mode: model.step_time(batch).launch_us for mode, batch in batches.items()}
    assert after["FULL"] == before["FULL"]
    assert after["PIECEWISE"] - before["PIECEWISE"] == pytest.approx(4 * 30.0)
    # Four operations less are queued in the usual time, 90 us each.
    assert after["NONE"] - before["NONE"] == pytest.approx(4 * 30.0 + 4 * (400.0 - 90.0), rel=0.05)
    assert list(model.step_times(list(batches.values())).launch_us) == list(after.values())
    rows = [Observation((("N", n), ("R", r)), None, 750.0 * n) for n in (2, 8, 24) for r in (1, 8, 64)]
    in_engine = fit_host("host_experts", rows)
    for known in (slower, {key: replace(each, queued_us=0.0) for key, each in slower.items()}):
        work = collect_work((*OPERATIONS, PICKED), known, MODEL)
        alone = StepModel(work, host, model.graphs)
        served = StepModel(work, replace(host, formulas=host.formulas | {"host_experts": in_engine}), model.graphs)
        longer = {mode: served.step_time(batch).launch_us for mode, batch in batches.items()}
        unlike = 4 * (750.0 - (400.0 if known is slower else 90.0))
        assert longer["NONE"] - alone.step_time(batches["NONE"]).launch_us == pytest.approx(unlike, rel=0.02)
        assert longer["PIECEWISE"] == alone.step_time(batches["PIECEWISE"]).launch_us
        assert list(served.step_times(list(batches.values())).launch_us) == list(longer.values())
    alike = {key: replace(each, queued_us=min(each.queued_us, 120.0)) for key, each in slower.items()}
    same = StepModel(collect_work((*OPERATIONS, PICKED), alike, MODEL), host, either.graphs)
    assert same.step_time(batches["PIECEWISE"]).launch_us == before["PIECEWISE"]
    quick = _queueing_takes(host, 0.0)
    unknown = StepModel(collect_work((*OPERATIONS, PICKED), slower, MODEL), quick, either.graphs)
    assert unknown.step_time(batches["PIECEWISE"]).launch_us == before["PIECEWISE"]


def _queueing_takes(host: HostModel, queued_us: float) -> HostModel:
    """The host with so much for queueing the attention of one layer of its load."""
    launch = {part: replace(host.formulas[part], queued_us=queued_us) for part in map(launch_of, MODES)}
    return replace(host, formulas=host.formulas | launch)


def _of_backend(operation: Operation, backend: str) -> Operation:
    if operation.target != "attention":
        return operation
    return replace(operation, attrs=attributes(**{**dict(operation.attrs), "backend": backend}))


def test_flat_arrays_are_taken_as_they_are(model: StepModel) -> None:
    batches = [Batch.of((1, 30), (64, 0)), Batch.of((1, 7))]
    np.testing.assert_array_equal(
        model.step_times(BatchColumns.of(batches)).total_us, model.step_times(batches).total_us
    )


@given(steps)
def test_order_of_requests_does_not_matter(model: StepModel, batch: Batch) -> None:
    turned = Batch(tuple(reversed(batch.requests)), batch.logits)
    assert model.step_time(turned) == model.step_time(batch)


def test_counts_are_those_of_the_model(model: StepModel) -> None:
    rows = {(row.name, row.count) for row in model.breakdown(Batch.of((8, 0))).rows}
    qkv, norm, *_, reduce, foreign = OPERATIONS
    assert (qkv.name, 4) in rows
    assert {(norm.name, 9), (norm.name, 1)} <= rows
    assert {name for name, _ in rows} & {reduce.name, foreign.name} == set()
    assert (PICKED.name, 1) in rows
    assert model.launches == 4 + 9 + 1 + 1 + 2 + 2 + 4 + 1
    assert ("host_dispatch", model.launches) in rows


def test_rows_of_logits_follow_logits(model: StepModel) -> None:
    head = OPERATIONS[2].name

    def cost(logits: int) -> float:
        return next(r.total_us for r in model.breakdown(Batch(((100, 0),), logits)).rows if r.name == head)

    assert cost(0) == 0.0
    assert 0 < cost(1) < cost(100)


def test_work_over_tokens_and_logits_is_done_without_logits(model: StepModel) -> None:
    def cost(logits: int) -> float:
        rows = model.breakdown(Batch(((100, 0),), logits)).rows
        return next(r.total_us for r in rows if r.name == PICKED.name)

    assert cost(0) == cost(1) == pytest.approx(26, rel=0.02)
    assert cost(2) == pytest.approx(27, rel=0.02)


def test_windowed_attention_stops_growing(model: StepModel) -> None:
    window = OPERATIONS[4].name

    def cost(cached: int) -> float:
        return next(r.total_us for r in model.breakdown(Batch.of((1, cached))).rows if r.name == window)

    assert cost(200) == cost(1500) >= cost(10)


def test_work_of_one_symbol_grows_with_it(model: StepModel) -> None:
    sizes = range(1, 3000)
    times = model.step_times([Batch.of((n, 0)) for n in sizes])
    norm = next(each for each in model.work if each.operation.name.startswith("rms_norm"))
    latency, _ = norm.total_us({"T": np.arange(1.0, 3000.0), "L": np.ones(2999)}, columns_of(2999))
    assert np.all(np.diff(latency) >= 0)
    assert len(times) == len(sizes)


def test_what_was_not_measured_is_said(model: StepModel) -> None:
    assert not model.step_time(Batch.of(*[(1, 300)] * 16)).extrapolated
    far = model.breakdown(Batch.of((9000, 0)))
    assert far.cost.extrapolated
    assert OPERATIONS[0].name in {row.name for row in far.rows if row.extrapolated}


def test_other_routings_change_the_experts(formulas: Mapping[str, Formula]) -> None:
    def one_expert(tokens: float, experts: int, chosen: int) -> float:
        return 0.0 * tokens + chosen

    batch = Batch.of(*[(1, 100)] * 16)
    skewed = StepModel.build(OPERATIONS, formulas, MODEL, routing=one_expert).step_time(batch)
    assert skewed.device_us < StepModel.build(OPERATIONS, formulas, MODEL).step_time(batch).device_us


def test_a_missing_formula_is_named_with_the_command(formulas: dict[str, Formula]) -> None:
    some = {key: value for key, value in formulas.items() if key != OPERATIONS[0].signature}
    with pytest.raises(PredictError, match=rf"no formula of {OPERATIONS[0].name}; `dooly profile tiny`"):
        StepModel.build(OPERATIONS, some, MODEL)
    del some[OPERATIONS[1].signature]
    with pytest.raises(PredictError, match="and 1 more"):
        StepModel.build(OPERATIONS, some, MODEL)


@pytest.mark.parametrize("part", host_parts()[:3])
def test_a_missing_host_formula_is_named(formulas: dict[str, Formula], part: str) -> None:
    with pytest.raises(PredictError, match=f"no formula of {part}"):
        StepModel.build(OPERATIONS, {k: v for k, v in formulas.items() if k != part}, MODEL)


def test_without_a_host_a_step_is_the_sum_of_its_operations(formulas: dict[str, Formula]) -> None:
    batch = Batch.of((128, 0), *[(1, 100)] * 16)
    alone = {key: value for key, value in formulas.items() if not is_host_part(key)}
    steps = StepModel.build(OPERATIONS, alone, MODEL, device_only=True)
    breakdown, cost = steps.breakdown(batch), steps.step_time(batch)
    with_host = StepModel.build(OPERATIONS, formulas, MODEL).breakdown(batch)
    assert [row.total_us for row in breakdown.rows] == [row.total_us for row in with_host.rows if row.kind != "host"]
    assert breakdown.cost == pytest.approx(cost, rel=1e-12)
    assert cost.total_us == cost.device_us == pytest.approx(sum(row.total_us for row in breakdown.rows), rel=1e-12)
    assert cost.host_before_us == cost.host_after_us == 0
    many = steps.step_times([batch, batch])
    assert list(many.total_us) == list(many.device_us) == pytest.approx([cost.total_us] * 2, rel=1e-12)


def test_a_model_that_uses_nothing_is_refused(formulas: dict[str, Formula]) -> None:
    with pytest.raises(PredictError, match="nobody: the operation table holds nothing"):
        StepModel.build(OPERATIONS, formulas, "nobody")


def test_missing_collectives_are_said_to_need_their_devices(formulas: dict[str, Formula]) -> None:
    reduce = Operation(
        "all_reduce",
        (laws.tensor("T", 512),),
        (laws.tensor("T", 512),),
        attributes(group="tp", ranks=2),
        uses=(Use(MODEL, "layers.reduce", 8),),
    )
    with pytest.raises(PredictError, match=r"no formula of all_reduce_\w+, .* over 2 ranks; .* that many devices"):
        StepModel.build((*OPERATIONS, PICKED, reduce), formulas, MODEL)
