import math
from dataclasses import replace

import numpy as np
import pytest

from dooly.batch import Batch
from dooly.errors import FitError
from dooly.fit import Formula, Observation, experts_reached, fit, fit_host
from dooly.fit.evaluator import scalar_evaluator
from dooly.fit.select import plan_of
from dooly.fit.target import subject_of
from dooly.fit.terms import regimes
from dooly.ir import Operation, TensorType, attributes
from dooly.ir.expr import evaluate, normal, symbol
from tests.fit import laws

GEMM = laws.linear(4096, 6144)


def gemm_law(values: dict[str, float]) -> float:
    return 3.0 + max(laws.flops(GEMM, values) / 600e6, laws.moved(GEMM, values) / 2500e3)


def parameter(formula: Formula, name: str) -> tuple[float, float, float]:
    found = next(p for p in formula.parameters if p.name == name)
    return found.low, found.value, found.high


def test_a_roofline_is_found_with_its_parameters() -> None:
    formula = fit(GEMM, laws.over_tokens(laws.noisy(gemm_law, 0.015, seed=3)))
    for name, truth in (("launch", 3.0), ("peak", 600.0), ("bandwidth", 2500.0)):
        low, value, high = parameter(formula, name)
        assert low <= truth <= high, name
        assert value == pytest.approx(truth, rel=0.4 if name == "launch" else 0.05)
    assert formula.held.mape < 0.03
    assert formula.held.points == len(laws.SIZES)
    assert {p.unit for p in formula.parameters} == {"us", "TFLOP/s", "GB/s"}


def test_a_memory_bound_operation_needs_two_parameters() -> None:
    norm = laws.norm(4096)
    formula = fit(norm, laws.over_tokens(laws.noisy(lambda v: 2.0 + laws.moved(norm, v) / 1800e3, 0.01, seed=1)))
    assert [p.name for p in formula.parameters] == ["launch", "bandwidth"]
    low, _, high = parameter(formula, "bandwidth")
    assert low <= 1800 <= high


def test_tiles_earn_their_place() -> None:
    sizes = [*range(8, 520, 24), 1000, 1500, 2000, 3000, 4100]

    def tiled(values: dict[str, float]) -> float:
        whole = {"T": 128.0 * math.ceil(values["T"] / 128)}
        return 2.0 + laws.flops(GEMM, whole) / 300e6

    formula = fit(GEMM, laws.over_tokens(laws.noisy(tiled, 0.01, seed=2), sizes))
    assert "FloorDiv(T + 127, 128)" in str(formula.expression)
    assert formula.held.symbolic_mape < 0.03


def test_latent_attention_is_fitted_by_its_own_work() -> None:
    op = laws.latent_attention()

    def law(values: dict[str, float]) -> float:
        return 6.0 + laws.flops(op, values) / 200e6 + laws.moved(op, values) / 2000e3

    formula = fit(op, laws.over_batches(laws.noisy(law, 0.02, seed=3), laws.batches()))
    assert formula.held.mape < 0.05
    for batch in (Batch.of(*[(1, 900)] * 20), Batch.of((300, 0)), Batch.of((200, 100), *[(1, 400)] * 12)):
        values = {name: float(v) for name, v in batch.attention().items()}
        assert formula.predict_one(values)[0] == pytest.approx(law(values), rel=0.12)


def test_attention_keeps_prefill_and_decode_apart() -> None:
    op = laws.attention()

    def law(values: dict[str, float]) -> float:
        prefill = {**values, "P": values["Pp"]}
        return 8.0 + laws.flops(op, prefill) / 300e6 + laws.moved(op, values) / 2000e3 + 0.2 * values["R"]

    formula = fit(op, laws.over_batches(laws.noisy(law, 0.02, seed=5), laws.batches()))
    assert formula.held.mape < 0.05
    unseen = [Batch.of(*[(1, 900)] * 20), Batch.of((300, 0)), Batch.of((200, 100), *[(1, 400)] * 12)]
    for batch in unseen:
        values = {name: float(v) for name, v in batch.attention().items()}
        latency, _ = formula.predict_one(values)
        assert latency == pytest.approx(law(values), rel=0.12)


def test_steps_that_only_decode_have_parameters_of_their_own() -> None:
    op = laws.attention()

    def law(values: dict[str, float]) -> float:
        if values["M"]:
            return 20.0 + laws.flops(op, values) / 300e6 + laws.moved(op, values) / 1000e3
        return 8.0 + laws.moved(op, values) / 3000e3

    formula = fit(op, laws.over_batches(laws.noisy(law, 0.01, seed=6), laws.batches()))
    for name, truth in (("launch", 8.0), ("bandwidth", 3000.0), ("launch_mixed", 20.0), ("bandwidth_mixed", 1000.0)):
        assert parameter(formula, name)[1] == pytest.approx(truth, rel=0.15), name


def test_beyond_the_requests_whose_contexts_are_split_the_longest_one_decides() -> None:
    op = laws.attention(backend="TRITON_ATTN")
    assert subject_of(op).split == 16

    def law(values: dict[str, float]) -> float:
        moved = laws.moved(op, values)
        if values["M"]:
            return 20.0 + moved / 1000e3
        return 6.0 + moved / 2000e3 if values["R"] <= 16 else 6.0 + max(moved / 4000e3, 0.045 * values["Sd"])

    uneven = [Batch.of((1, most), *[(1, 20)] * count) for most in (500, 2000) for count in (20, 50)]
    formula = fit(op, laws.over_batches(laws.noisy(law, 0.01, seed=7), [*laws.batches(), *uneven]))
    assert parameter(formula, "chain_unsplit")[1] == pytest.approx(0.045, rel=0.1)
    for batch in (Batch.of((1, 1500), *[(1, 100)] * 15), Batch.of((1, 1500), *[(1, 100)] * 16)):
        values = {name: float(v) for name, v in batch.attention().items()}
        assert formula.predict_one(values)[0] == pytest.approx(law(values), rel=0.1)


def test_too_few_points_of_one_regime_leave_the_others_apart() -> None:
    op = laws.attention(backend="TRITON_ATTN")

    def law(values: dict[str, float]) -> float:
        return (20.0 if values["M"] else 6.0) + laws.moved(op, values) / 2000e3

    few = [batch for batch in laws.batches() if batch.kind != "decode" or batch.count <= 16]
    formula = fit(op, laws.over_batches(laws.noisy(law, 0.01, seed=8), few))
    assert not [p.name for p in formula.parameters if p.name.endswith("_unsplit")]
    assert parameter(formula, "launch")[1] == pytest.approx(6.0, rel=0.1)
    assert parameter(formula, "launch_mixed")[1] == pytest.approx(20.0, rel=0.1)


def test_a_prompt_costs_the_host_more_than_a_request_that_decodes_beside_it() -> None:
    def law(requests: int, tokens: int, prompts: int) -> float:
        return 1600.0 * bool(prompts) + 1000.0 * (not prompts) + 8.0 * (requests - prompts) + 60.0 * prompts

    decodes = [(requests, requests) for requests in (1, 4, 16, 64, 128, 256)]
    prompts = [(1, 128), (1, 8192), (4, 256), (4, 1024), (16, 256), (16, 2048), (64, 2048)]
    rows = [Observation((("R", r), ("T", t)), None, law(r, t, 0 if r == t else r)) for r, t in [*decodes, *prompts]]
    mixed = [(5, 300, 1), (17, 2000, 1), (65, 900, 2)]
    more = [Observation((("R", r), ("Rp", p), ("T", t)), None, law(r, t, p)) for r, t, p in mixed]
    for known in (rows, rows + more):
        formula = fit_host("host_before", known)
        for requests, tokens, new in (
            (32, 32, 0),
            (200, 200, 0),
            (8, 512, 8),
            (40, 3000, 40),
            (64, 1087, 1),
            (64, 2000, 3),
        ):
            latency, _ = formula.predict_one({"R": float(requests), "T": float(tokens), "Rp": float(new)})
            assert latency == pytest.approx(law(requests, tokens, new), rel=0.02)


@pytest.mark.parametrize("backend", [None, "TRITON_ATTN", "FLASHINFER"])
def test_each_batch_is_in_one_regime(backend: str | None) -> None:
    subject = subject_of(laws.attention(backend=backend))
    for parts in regimes(subject, 40):
        for batch in laws.batches():
            values = {name: float(v) for name, v in batch.attention().items()}
            inside = [scalar_evaluator(regime.within)(values) for regime in parts]
            assert sorted(inside) == [0.0] * (len(parts) - 1) + [1.0]

        for regime in parts:
            contributions = [c for structure in regime.structures for term in structure for c in term]
            assert {c.within for c in contributions} == {normal(regime.within)}


def test_windowed_attention_reads_no_more_than_its_window() -> None:
    op = laws.attention(window=256)

    def law(values: dict[str, float]) -> float:
        return 5.0 + laws.moved(op, values) / 1000e3

    formula = fit(op, laws.over_batches(law, laws.batches(), window=256))
    short, long = (Batch.of(*[(1, c)] * 8).attention(256) for c in (256, 2000))
    assert formula.predict_one(short)[0] == pytest.approx(formula.predict_one(long)[0])


def test_activated_experts_count() -> None:
    op = laws.moe()
    points = [(t, a) for t in (1, 2, 4, 8, 16, 64, 256) for a in (1, 2, 4, 8) if a <= 2 * t]

    def law(values: dict[str, float]) -> float:
        return 20.0 + laws.moved(op, values) / 50e3 + 3.0 * values["A"] + laws.flops(op, values) / 2e6

    noisy = laws.noisy(law, 0.02, seed=4)
    rows = [Observation((("A", a), ("T", t)), None, noisy({"A": float(a), "T": float(t)})) for t, a in points]
    formula = fit(op, rows)
    assert formula.held.mape < 0.06
    assert formula.predict_one({"T": 32.0, "A": 8.0})[0] > formula.predict_one({"T": 32.0, "A": 2.0})[0]


def test_experts_follow_from_tokens_where_a_point_does_not_say() -> None:
    assert experts_reached(1, 8, 2) == pytest.approx(2)
    assert experts_reached(10_000, 8, 2) == pytest.approx(8)
    op = laws.moe()
    rows = [Observation((("T", t),), None, 10.0 + 0.5 * t) for t in (1, 2, 4, 8, 16, 32, 64)]
    formula = fit(op, rows)
    assert formula.predict_one({"T": 8.0, "A": experts_reached(8, 8, 2)})[1] is False


def test_a_rank_reaches_its_own_experts_with_the_tokens_of_all() -> None:
    states = TensorType("bf16", (normal(4 * symbol("T")), normal(512)))
    operands = (states, laws.tensor(2, 2048, 512), laws.tensor(2, 512, 1024))
    attrs = attributes(experts=8, hidden=512, intermediate=1024, local_experts=2, top_k=2)
    rank = Operation("moe", operands, (states,), attrs)
    whole = subject_of(laws.moe()).mixture
    mixture = subject_of(rank).mixture
    assert mixture is not None
    assert whole is not None
    assert mixture.reached(3.0) == pytest.approx(whole.reached(12.0) / 4)
    weights = 2 * 2 * (2048 * 512 + 512 * 1024)
    assert evaluate(rank.bytes, {"T": 8, "A": 2}) == weights + 2 * 8 * 4 * 512 * 2


def test_the_residual_follows_what_no_candidate_can() -> None:
    def bumpy(values: dict[str, float]) -> float:
        return gemm_law(values) * (1 + 0.25 * math.exp(-((math.log2(values["T"]) - 9) ** 2)))

    sizes = sorted({round(1.2**i) for i in range(50)})
    formula = fit(GEMM, laws.over_tokens(bumpy, sizes))
    assert formula.residual is not None
    assert formula.held.mape < 0.5 * formula.held.symbolic_mape
    assert formula.predict_one({"T": 512.0})[0] == pytest.approx(bumpy({"T": 512.0}), rel=0.05)


def test_more_rows_take_no_less_time_but_where_a_library_chooses_kernels() -> None:
    norm = laws.norm(4096)
    noisy = laws.noisy(lambda values: 2.0 + laws.moved(norm, values) / 1800e3, 0.15, seed=9)
    latency, _ = fit(norm, laws.over_tokens(noisy)).predict({"T": np.arange(1, 20_000)})
    assert np.all(np.diff(latency) >= -1e-9 * latency[1:])

    def slow_to_551(values: dict[str, float]) -> float:
        uneven = 1.0 + 0.2 * math.sin(math.log(values["T"]))
        return gemm_law(values) * uneven * (1.4 if 513 <= values["T"] <= 551 else 1.0)

    sizes = sorted({*(round(1.3**i) for i in range(35)), 513, 530, 551, 608})
    formula = fit(GEMM, laws.over_tokens(slow_to_551, sizes))
    slow, usual = (formula.predict_one({"T": float(rows)})[0] for rows in (530, 608))
    assert slow == pytest.approx(slow_to_551({"T": 530}), rel=0.02)
    assert usual < 0.85 * slow


def test_the_residual_fades_outside_the_domain() -> None:
    def high(values: dict[str, float]) -> float:
        return gemm_law(values) * (1.0 + 0.3 * math.sin(math.log(values["T"])))

    formula = fit(GEMM, laws.over_tokens(high, sorted({round(1.2**i) for i in range(45)})))
    assert formula.residual is not None
    symbolic = float(formula.fitted.subs(symbol("T"), 3_000_000))
    assert formula.predict_one({"T": 3e6}) == (pytest.approx(symbolic), True)


def test_extrapolation_is_said() -> None:
    formula = fit(GEMM, laws.over_tokens(gemm_law))
    largest = max(laws.SIZES)
    sizes = [1, 64, largest, largest + 1, 100_000]
    assert [formula.predict_one({"T": float(n)})[1] for n in sizes] == [False, False, False, True, True]
    assert formula.predict({"T": sizes})[1].tolist() == [False, False, False, True, True]


def test_attention_outside_its_measured_shapes_is_said() -> None:
    op = laws.attention()
    formula = fit(op, laws.over_batches(lambda v: 5.0 + laws.moved(op, v) / 1e6, laws.batches()))
    inside, longer, more = Batch.of(*[(1, 500)] * 8), Batch.of((1, 9000)), Batch.of(*[(1, 500)] * 200)
    assert [formula.predict_one(b.attention())[1] for b in (inside, longer, more)] == [False, True, True]


def test_scalar_and_column_predictions_agree() -> None:
    op = laws.attention()
    law = laws.noisy(lambda v: 5.0 + laws.moved(op, v) / 1e6 + laws.flops(op, v) / 1e9, 0.2, seed=6)
    formula = fit(op, laws.over_batches(law, laws.batches()))
    rows = [{n: float(v) for n, v in b.attention().items()} for b in laws.batches(seed=1)]
    latency, outside = formula.predict({name: [row[name] for row in rows] for name in rows[0]})
    for row, one, flag in zip(rows, latency, outside, strict=True):
        assert formula.predict_one(row) == (pytest.approx(one), bool(flag))


def test_the_same_points_in_another_order_give_the_same_formula() -> None:
    rows = laws.over_tokens(laws.noisy(gemm_law, 0.05, seed=7))
    assert fit(GEMM, rows) == fit(GEMM, reversed(rows))


def test_repeated_points_count_once() -> None:
    rows = laws.over_tokens(gemm_law)
    wild = Observation((("T", rows[4].sizes[0][1]),), None, 1e6)
    formula = fit(GEMM, [*rows, *rows, wild])
    assert formula.held.points == len(rows)
    assert formula.held.mape < 0.01


def test_points_that_scatter_are_not_believed() -> None:
    rows = laws.over_tokens(gemm_law)
    spoilt = [Observation(o.sizes, None, o.latency_us * 3, spread=2.0) if i % 3 == 1 else o for i, o in enumerate(rows)]
    formula = fit(GEMM, spoilt)
    for row in rows:
        assert formula.predict_one({"T": float(row.sizes[0][1])})[0] == pytest.approx(row.latency_us, rel=0.05)
    assert formula.held.noise == 0.0
    with pytest.raises(FitError, match="spread"):
        Observation.read('{"T":4}', 1.0, -0.5)


def test_less_work_cannot_take_longer() -> None:
    rows = laws.over_tokens(laws.noisy(gemm_law, 0.01, seed=8))
    rows[5] = Observation(rows[5].sizes, None, 40 * rows[5].latency_us)
    rows[9] = Observation(rows[9].sizes, None, 25 * rows[9].latency_us)
    formula = fit(GEMM, rows)
    assert formula.held.disturbed == 2
    assert formula.held.mape < 0.05
    assert formula.predict_one({"T": float(rows[5].sizes[0][1])})[0] == pytest.approx(rows[5].latency_us / 40, rel=0.1)


def test_the_host_is_linear_in_requests_and_tokens() -> None:
    steps = [(r, t) for r in (1, 4, 16) for t in (r, 64, 512)]
    rows = [Observation((("R", r), ("T", t)), None, 900 + 8.0 * r + 0.05 * t) for r, t in steps]
    formula = fit_host("host_before", rows)
    assert formula.predict_one({"R": 10.0, "T": 100.0, "Rp": 10.0})[0] == pytest.approx(985, rel=1e-3)
    dispatch = fit_host("host_dispatch", [Observation((("N", n),), None, 5.0 * n) for n in (40, 200)])
    assert dispatch.predict_one({"N": 100.0})[0] == pytest.approx(500)


def test_too_few_points_say_what_to_do() -> None:
    with pytest.raises(FitError, match=r"linear_\w+: 2 .*at least 3 are needed of work over T; .*`dooly profile`"):
        fit(GEMM, laws.over_tokens(gemm_law, [1, 2]))
    with pytest.raises(FitError, match=r"attention_.* 1 measured points, at least 5"):
        fit(laws.attention(), [Observation((), Batch.of((1, 1)), 3.0)])


@pytest.mark.parametrize("latency", [0.0, -1.0, float("nan"), float("inf")])
def test_times_must_be_positive(latency: float) -> None:
    with pytest.raises(FitError, match="expected a positive time"):
        Observation.read('{"T":4}', latency)


@pytest.mark.parametrize("point", ["", "[1]", '{"T":"x"}', '{"requests":[[0,1,1]]}', "3", '{"T":0}'])
def test_points_must_be_points(point: str) -> None:
    with pytest.raises(FitError):
        Observation.read(point, 1.0)


def test_points_must_be_of_the_operation() -> None:
    rows = [Observation((("L", n),), None, 1.0 * n) for n in (1, 2, 4, 8)]
    with pytest.raises(FitError, match="does not give T"):
        fit(GEMM, rows)


def test_unknown_host_work_is_refused() -> None:
    with pytest.raises(FitError, match="expected one of host_before"):
        fit_host("host_lunch", [])


def test_points_that_say_nothing_still_give_a_constant() -> None:
    formula = fit(GEMM, [Observation((("T", n),), None, 7.0) for n in (1, 2, 3)])
    assert formula.predict_one({"T": 2.0})[0] == pytest.approx(7.0, rel=0.01)


def test_the_time_to_queue_attention_is_that_of_steps_with_prompts() -> None:
    """Steps that only decode are one graph.  What was not measured does not count."""
    operation = laws.attention()
    points = laws.over_batches(lambda values: 5.0 + values["S"] / 1e3, laws.batches())
    decodes = [each for each in points if each.batch is not None and each.batch.tokens == each.batch.count]
    timed = [replace(each, queued_us=100.0 if each in decodes else 200.0) for each in points]
    assert fit(operation, timed).queued_us == 200.0
    alone = [replace(each, queued_us=100.0 if each in decodes else 0.0) for each in points]
    assert fit(operation, alone).queued_us == 100.0
    assert fit(operation, points).queued_us == 0.0


def test_attention_is_planned_for_decodes_and_for_prompts_apart() -> None:
    operation = laws.attention()
    points = laws.over_batches(lambda values: 5.0 + values["S"] / 1e3, laws.batches())
    decodes = [each.batch is not None and each.batch.tokens == each.batch.count for each in points]
    timed = [replace(each, plan_us=300.0 if only else 900.0) for each, only in zip(points, decodes, strict=True)]
    assert fit(operation, timed).plan_us == (300.0, 900.0)
    alone = [each for each, only in zip(timed, decodes, strict=True) if only]
    assert fit(operation, alone).plan_us == (300.0, 300.0)


def test_of_several_plans_the_least_that_is_known_counts() -> None:
    assert plan_of([(300.0, 900.0), (200.0, 0.0), (0.0, 0.0)]) == (200.0, 900.0)
    assert plan_of([(0.0, 0.0)]) == (0.0, 0.0)
