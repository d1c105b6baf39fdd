"""The ledger: measured seconds where there are some, counted ones elsewhere, shared operations once."""

from dataclasses import replace

import pytest

from dooly.database import Measurement, Point, Samples, Status
from dooly.evaluate.ledger import FIXED_GRID, by_operation, make_ledger, with_backends
from dooly.executor.plan.sweep import coarse_points
from dooly.ir import Kind, Operation, Program, TensorType, Use, attributes, parse_expr


def tensor(*dims: object) -> TensorType:
    return TensorType("bf16", tuple(parse_expr(str(dim)) for dim in dims))


def linear(n: int, *users: str) -> Operation:
    uses = tuple(Use(model, "somewhere", 2) for model in users)
    return Operation("linear", (tensor("T", 64), tensor(n, 64)), (tensor("T", n),), uses=uses)


def attention(user: str) -> Operation:
    facts = {
        "backend": "FLASH_ATTN",
        "causal": True,
        "head_size": parse_expr("64"),
        "heads": parse_expr("4"),
        "kv_dtype": "bf16",
        "kv_heads": parse_expr("4"),
        "sinks": False,
        "soft_cap": None,
        "window": None,
    }
    heads = tensor("T", 4, 64)
    return Operation("attention", (heads,) * 3, (heads,), tuple(facts.items()), uses=(Use(user, "somewhere", 1),))


SHARED, OWN, ATTENTION = linear(32, "one", "two"), linear(96, "two"), attention("two")
PROGRAM = Program((), (SHARED, OWN, ATTENTION))
MODELS = [(name, 1, PROGRAM.for_model(name)) for name in ("one", "two")]
TOKENS = 259


def taken(operation: Operation, point: Point, seconds: float, status: Status = Status.OK) -> Measurement:
    samples = Samples((1.0,)) if status is Status.OK else Samples(())
    return Measurement(operation.signature, "e", point, status, None, samples, 100.0, 100.0 + seconds)


def sweep(*operations: Operation) -> dict[str, list[Measurement]]:
    points = [Point.of(T=n) for n in (1, 7, 9, 11)]
    return {each.signature: [taken(each, point, 2.0) for point in points] for each in operations}


def test_a_measured_grid_costs_what_it_cost_and_the_rest_is_counted():
    grid_points = coarse_points(SHARED, FIXED_GRID)
    grid = {SHARED.signature: [taken(SHARED, point, 0.5) for point in grid_points[:-9]]}
    found = make_ledger(MODELS[:1], sweep(SHARED), grid)
    (row,) = found.rows
    assert (len(grid_points), row.grid_points) == (TOKENS, TOKENS)
    assert row.measured_s == pytest.approx((TOKENS - 9) * 0.5)
    assert row.extrapolated_s == pytest.approx(9 * 0.5)
    assert (found.point_times[Kind.GEMM].source, found.point_times[Kind.GEMM].points) == ("grid", TOKENS - 9)
    assert (row.sweep_points, row.sweep_s) == (4, pytest.approx(8.0))


def test_points_of_another_grid_do_not_count():
    grid = {SHARED.signature: [taken(SHARED, Point.of(T=3), 50.0)]}
    (row,) = make_ledger(MODELS[:1], sweep(SHARED), grid).rows
    assert row.measured_s == 0.0


def test_without_a_grid_the_sweeps_quicker_points_are_counted():
    points = sweep(SHARED)
    points[SHARED.signature][0] = taken(SHARED, Point.of(T=1), 90.0)  # set up first
    found = make_ledger(MODELS[:1], points, {})
    assert (found.point_times[Kind.GEMM].seconds, found.point_times[Kind.GEMM].source) == (2.0, "sweep")
    assert found.grid_s == pytest.approx(TOKENS * 2.0)
    assert found.sweep_s == pytest.approx(96.0)


def test_an_operation_that_an_earlier_model_has_is_measured_once():
    found = make_ledger(MODELS, sweep(SHARED, OWN), {})
    one, two = found.rows
    assert (one.operations, one.new, two.operations, two.new, two.unmeasured) == (1, 1, 2, 1, 1)
    assert two.grid_s == pytest.approx(2 * one.grid_s)
    assert two.deduplicated_s == pytest.approx(one.deduplicated_s) == pytest.approx(one.grid_s)
    assert two.sweep_s == pytest.approx(8.0)
    assert (found.grid_s, found.deduplicated_s) == (pytest.approx(3 * one.grid_s), pytest.approx(2 * one.grid_s))


def test_failed_points_cost_seconds_and_are_no_points():
    points = sweep(SHARED)
    points[SHARED.signature].append(taken(SHARED, Point.of(T=99), 30.0, Status.FAILED))
    (row,) = make_ledger(MODELS[:1], points, {}).rows
    assert (row.sweep_points, row.sweep_s) == (4, pytest.approx(38.0))


def test_what_belongs_to_no_model_is_told_apart():
    found = make_ledger(MODELS[:1], sweep(SHARED, OWN), {})
    assert found.elsewhere_s == pytest.approx(8.0)
    assert found.sweep_s == pytest.approx(8.0)


def test_attention_stands_once_for_each_backend():
    found = with_backends((SHARED, ATTENTION), ("FLASH_ATTN", "TRITON_ATTN"))
    assert found[:2] == (SHARED, ATTENTION)
    assert found[2].attr("backend") == "TRITON_ATTN"
    assert len({each.signature for each in found}) == 3


def test_only_flash_attention_plans_layers_apart():
    apart = replace(ATTENTION, attrs=attributes(**dict(ATTENTION.attrs), planned_per_layer=True))
    first, second = with_backends((apart,), ("FLASH_ATTN", "TRITON_ATTN"))
    assert first.attr("planned_per_layer") is True
    assert second == with_backends((ATTENTION,), ("TRITON_ATTN",))[0]


def test_the_fixed_grid_is_the_published_one():
    assert len(coarse_points(ATTENTION, FIXED_GRID)) == 10_776
    assert by_operation([]) == {}
