from dataclasses import replace

import numpy as np
import pytest
import sympy

from dooly.batch import Batch
from dooly.fit import Families, Observation, family_key, fit_families
from dooly.fit.store import from_json, to_json
from dooly.ir.operation import Operation
from tests.fit.laws import SIZES, attention, flops, linear, moved, noisy, norm

SHAPES = [(1024, 1024), (4096, 1024), (1024, 6144), (4096, 4096), (8192, 1024), (2048, 16384)]


def gemm_law(operation: Operation, tokens: int) -> float:
    values = {"T": float(tokens)}
    work = max(flops(operation, values) / 600e6, moved(operation, values) / 3e6)
    return 4.0 + 0.0005 * int(operation.operands[0].shape[-1]) + work


def gemm_points(operation: Operation, sizes=SIZES, seed: int = 0) -> list[Observation]:
    law = noisy(lambda values: gemm_law(operation, int(values["T"])), 0.01, seed)
    return [Observation((("T", n),), None, law({"T": float(n)})) for n in sizes]


def gemm_families() -> Families:
    return fit_families({op: gemm_points(op, seed=i) for i, op in enumerate(linear(k, n) for k, n in SHAPES)})


def test_a_shape_without_points_is_predicted_and_said_to_be_extrapolated() -> None:
    family = gemm_families().of(linear(3072, 8192))
    assert family is not None
    assert len(family.members) == len(SHAPES)
    assert family.median < 0.02
    formula = family.formula(linear(3072, 8192))
    for tokens in (1, 64, 1000, 8192):
        latency, extrapolated = formula.predict_one({"T": float(tokens)})
        assert latency == pytest.approx(gemm_law(linear(3072, 8192), tokens), rel=0.05)
        assert extrapolated
    assert formula.predict({"T": [1.0, 8192.0]})[1].all()


def test_parameters_are_those_of_the_law_with_their_units() -> None:
    family = gemm_families().of(linear(1, 1))
    assert family is not None
    found = {each.name: each for each in family.parameters}
    for name, value in (("launch", 4.0), ("peak", 600.0), ("bandwidth", 3000.0), ("per_depth", 0.0005)):
        assert found[name].value == pytest.approx(value, rel=0.1)
        assert found[name].low < value * 1.05
        assert found[name].high > value * 0.95


def test_a_shape_without_points_is_queued_as_quickly_as_the_quickest_that_is_known() -> None:
    operations = [linear(k, n) for k, n in SHAPES]
    points = {
        each: [replace(point, queued_us=us) for point in gemm_points(each, seed=place)]
        for place, (each, us) in enumerate(zip(operations, (0.0, 30.0, 20.0, 40.0, 50.0, 0.0), strict=True))
    }
    family = fit_families(points).of(linear(3072, 8192))
    assert family is not None
    assert family.formula(linear(3072, 8192)).queued_us == 20.0


def test_a_few_points_set_the_level_of_a_shape() -> None:
    odd = linear(3072, 8192)
    points = [Observation((("T", n),), None, 1.4 * gemm_law(odd, n)) for n in (1, 8192)]
    formula = gemm_families().fit(odd, points)
    assert formula.held.points == 2
    assert formula.lenders == len(SHAPES)
    for tokens in (1, 100, 1000, 8192):
        assert formula.predict_one({"T": float(tokens)})[0] == pytest.approx(1.4 * gemm_law(odd, tokens), rel=0.06)


def test_enough_points_of_its_own_need_no_family() -> None:
    own = linear(3072, 8192)
    formula = gemm_families().fit(own, gemm_points(own))
    assert formula.lenders == 0
    assert not formula.predict_one({"T": 64.0})[1]


def test_other_work_is_another_family() -> None:
    assert family_key(linear(8, 8)) == family_key(linear(16, 32))
    assert family_key(linear(8, 8)) != family_key(norm(8))
    assert gemm_families().of(norm(64)) is None


def test_the_error_is_that_of_operations_left_out() -> None:
    measured = {op: gemm_points(op) for op in (linear(k, n) for k, n in SHAPES)}
    twice = {
        op: [Observation(p.sizes, None, p.latency_us * factor) for p in points]
        for (op, points), factor in zip(measured.items(), (1, 2, 1, 2, 1, 2), strict=True)
    }
    family = fit_families(twice).of(linear(64, 64))
    assert family is not None
    assert family.p90 > 0.2


def test_only_the_wanted_families_are_fitted() -> None:
    measured = {op: gemm_points(op) for op in (linear(k, n) for k, n in SHAPES)}
    assert fit_families(measured, [norm(8)]).by_key == {}
    assert set(fit_families(measured, [linear(8, 8)]).by_key) == {family_key(linear(8, 8))}


def test_attention_of_other_heads_is_predicted_by_its_family() -> None:
    def with_kv(kv: int) -> Operation:
        plain = attention()
        attrs = tuple((k, sympy.Integer(kv) if k == "kv_heads" else v) for k, v in plain.attrs)
        key = plain.operands[1]
        return Operation(
            "attention",
            (
                plain.operands[0],
                key.__class__(key.dtype, (key.shape[0], sympy.Integer(128 * kv))),
                key.__class__(key.dtype, (key.shape[0], sympy.Integer(128 * kv))),
            ),
            plain.results,
            attrs,
        )

    def law(op: Operation, batch: Batch) -> float:
        v = {name: float(x) for name, x in batch.attention().items()}
        return 8.0 + flops(op, v | {"P": v["Pp"]}) / 500e6 + moved(op, v) / 3e6

    shapes = [[(1, c)] * n for n in (1, 8, 64) for c in (100, 1000, 8000)] + [
        [(q, c)] for q in (64, 1024) for c in (0, 4000)
    ]
    batches = [Batch.of(*shape) for shape in shapes]
    measured = {op: [Observation((), b, law(op, b)) for b in batches] for op in map(with_kv, (2, 4, 8, 16))}
    wanted = with_kv(1)
    family = fit_families(measured).of(wanted)
    assert family is not None
    for batch in batches:
        values = {name: float(x) for name, x in batch.attention().items()}
        assert family.formula(wanted).predict_one(values)[0] == pytest.approx(law(wanted, batch), rel=0.1)


def test_a_borrowed_formula_survives_the_round_trip() -> None:
    formula = gemm_families().fit(linear(3072, 8192), gemm_points(linear(3072, 8192), (1, 64)))
    again = from_json(to_json(formula))
    assert again == formula
    assert np.array_equal(again.predict({"T": [1.0, 9.0]})[0], formula.predict({"T": [1.0, 9.0]})[0])
