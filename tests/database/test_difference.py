"""Ratios of latencies at common points, per operation and per kind of operation."""

from dataclasses import replace

import pytest

from dooly.database import Environment, Measurement, Point, Record, Samples, Status, StoredOperation
from dooly.database.difference import agreement, agreement_by_target, difference


def record(target: str, tokens: int, latency_us: float, signature: str = "") -> Record:
    signature = signature or target
    measured = Measurement(signature, "e", Point.of(T=tokens), Status.OK, None, Samples((latency_us,) * 5))
    return Record(StoredOperation(signature, target, "text"), Environment.of(gpu="x"), measured)


def failed(each: Record) -> Record:
    return replace(each, measurement=replace(each.measurement, status=Status.FAILED, samples=Samples(())))


def test_only_points_that_both_measured_count():
    first = [record("linear", 1, 10.0), record("linear", 2, 10.0), record("moe", 1, 5.0), record("region", 1, 2.0)]
    second = [
        record("linear", 1, 15.0),
        record("linear", 3, 10.0),
        failed(record("moe", 1, 5.0)),
        record("region", 1, 1.0),
    ]
    found = difference(first, second)
    assert [(each.target, each.ratios) for each in found] == [("linear", (1.5,)), ("region", (0.5,))]


def test_points_of_one_environment_are_compared_where_both_have_it():
    here, there = Environment.of(gpu="x"), Environment.of(gpu="y")
    first = [replace(record("linear", 1, us), environment=each) for each, us in ((here, 10.0), (there, 20.0))]
    again = [replace(each, measurement=record("linear", 1, 30.0).measurement) for each in first]
    assert [difference(first, [each])[0].ratios for each in again] == [(3.0,), (1.5,)]
    (elsewhere,) = difference(first, [replace(again[0], environment=Environment.of(gpu="z"))])
    assert elsewhere.ratios == (1.5,)


def test_kinds_of_operations_are_summed_up_with_all_of_them_last():
    first = [record("linear", n, 10.0, f"s{n % 2}") for n in range(1, 41)] + [record("moe", 1, 10.0)]
    second = [record("linear", n, 10.0 + 0.0099 * n, f"s{n % 2}") for n in range(1, 41)] + [record("moe", 1, 13.0)]
    found = agreement_by_target(difference(first, second))
    assert list(found) == ["linear", "moe", "all"]
    linear, everything = found["linear"], found["all"]
    assert (linear.points, linear.within_2, linear.within_5) == (40, 50.0, 100.0)
    assert linear.median == pytest.approx(1.020295)
    assert 1.0 < linear.p5 < 1.004 < 1.037 < linear.p95 < 1.0396
    assert (everything.points, found["moe"].within_10) == (41, 0.0)


def test_nothing_in_common_is_no_kind_at_all():
    assert agreement_by_target(difference([record("linear", 1, 1.0)], [record("moe", 1, 1.0)])) == {}


def test_few_ratios_show_their_ends():
    found = agreement([1.2, 0.9, 1.0])
    assert (found.p5, found.median, found.p95) == (0.9, 1.0, 1.2)
