"""What docs/results/accuracy.md is written from, on a few operations with known laws."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from dooly.database import Database, Environment, Measurement, Point, Record, Samples, Status, StoredOperation
from dooly.database.exchange import write_parquet
from dooly.hardware.environment import stored_machine
from dooly.ir import Operation, Program
from dooly.ir.operation import Use
from scripts.accuracy_page import class_errors, family_rows, read_points, zero_shot
from scripts.zero_shot import BUDGETS_S, STEPS, left_out
from tests.fit.laws import SIZES, flops, linear, moved

SHAPES = [(1024, 1024), (4096, 1024), (1024, 6144), (4096, 4096), (2048, 16384)]


def law(operation: Operation, tokens: int) -> float:
    values = {"T": float(tokens)}
    return 4.0 + max(flops(operation, values) / 600e6, moved(operation, values) / 3e6)


def measured(operation: Operation, sizes: Sequence[int], factor: float = 1.0) -> list[Measurement]:
    return [
        Measurement(
            operation.signature,
            "here",
            Point.of(T=tokens),
            Status.OK,
            None,
            Samples((factor * law(operation, tokens),) * 5),
            started_s=float(order),
            finished_s=order + 0.5,
        )
        for order, tokens in enumerate(sizes)
    ]


def test_classes_have_errors_beside_goal_and_noise() -> None:
    operations = [linear(k, n) for k, n in SHAPES]
    points = {each: measured(each, SIZES) for each in operations}
    held_out = {each: measured(each, (50, 777), 1.1) for each in operations}
    repeated = {operations[0]: measured(operations[0], SIZES[:4], 1.02)}
    (row,) = class_errors(points, held_out, repeated)
    assert (row["kind"], row["operations"], row["points"], row["goal"]) == ("gemm", 5, 10, 3.0)
    assert row["median"] == pytest.approx(100 * (1 - 1 / 1.1), abs=1.0)
    assert row["noise"] == pytest.approx(2.0)
    assert row["repeated"] == 4


def test_points_of_the_measured_machine_alone_are_read(tmp_path) -> None:
    """However many others there are of one operation."""
    one, other = linear(*SHAPES[0]), linear(*SHAPES[1])
    facts = {
        "platform": "h200",
        "device": "NVIDIA H200",
        "driver": "1",
        "cuda": "13.0",
        "torch": "2.11.0",
        "cublas": "13",
    }
    records = [
        Record(
            StoredOperation(operation.signature, operation.target, str(Program((), (operation,)))),
            environment,
            replace(each, environment=environment.key),
        )
        for operation, mode, count in ((one, "graph", 2), (one, "eager", 3), (other, "graph", 4))
        for environment in [Environment.of(**facts, mode=mode)]
        for each in measured(operation, SIZES[:count])
    ]
    write_parquet(records, tmp_path / "points.parquet")
    database = Database("sqlite://")
    database.add_records(records)
    machine = stored_machine(database, "h200")
    found = read_points(tmp_path / "points.parquet", machine)
    assert {operation.signature: len(points) for operation, points in found.items()} == {
        one.signature: 2,
        other.signature: 4,
    }
    assert read_points(tmp_path / "none.parquet", machine) == {}


def test_a_point_that_is_fitted_is_not_held_out() -> None:
    operations = [linear(k, n) for k, n in SHAPES]
    points = {each: measured(each, SIZES) for each in operations}
    held_out = {each: measured(each, (SIZES[0], 777)) for each in operations}
    (row,) = class_errors(points, held_out, {})
    assert row["points"] == 5
    assert class_errors(points, {each: measured(each, SIZES[:1]) for each in operations}, {}) == []


def test_families_are_listed_once_with_their_parameters() -> None:
    (row,) = family_rows({each: measured(each, SIZES) for each in (linear(k, n) for k, n in SHAPES)})
    assert row["members"] == 5
    assert "TFLOP/s" in row["parameters"]
    assert row["median"] < 1.0


def test_a_model_left_out_is_predicted_from_the_others_and_exactly_with_its_points() -> None:
    shared, *others = [linear(k, n) for k, n in SHAPES]
    table = [replace(shared, uses=(Use("one", "a", 4), Use("two", "a", 2)))]
    table += [replace(each, uses=(Use("two", f"b{i}", 3),)) for i, each in enumerate(others)]
    odd = linear(3072, 8192)
    table.append(replace(odd, uses=(Use("one", "c", 8),)))
    points = {each: measured(each, SIZES) for each in (shared, *others)}
    points[odd] = measured(odd, SIZES, 1.25)
    first, second = sorted(left_out(Program((), tuple(table)), points), key=lambda each: each.model)
    assert (first.model, first.alone, first.measured, first.missing) == ("one", 1, 2, ())
    assert [count for count, _ in first.spent] == [0, 6, len(SIZES)]
    assert [spent <= budget for (_, spent), budget in zip(first.spent, BUDGETS_S, strict=True)] == [True] * 3
    nothing, few, full = first.errors
    assert set(nothing) == set(STEPS)
    assert all(-0.25 < error < -0.1 for error in nothing.values())
    assert all(abs(few[name]) < abs(nothing[name]) for name in STEPS)
    assert all(error == 0.0 for error in full.values())
    assert (second.alone, second.measured) == (4, 5)
    assert second.errors[0] == {}  # two other shapes are no family
    assert next(row["mixed"] for row in zero_shot(second)) is None
    assert [row["points"] for row in zero_shot(first)] == [0, 6, len(SIZES)]
