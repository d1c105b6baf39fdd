from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dooly.database import Measurement, Point, Samples, Status
from dooly.errors import ProfileError
from dooly.executor import Ranges
from dooly.executor.plan.grid import product_rows
from dooly.executor.plan.sweep import coarse_points, next_point, rows_limit
from dooly.executor.runners.moe import activated_bounds, routing
from dooly.ir import Use


def taken(operation, points, latency_us) -> list[Measurement]:
    return [
        Measurement(operation.signature, "e", point, Status.OK, None, Samples((latency_us(point.axes),)))
        for point in points
    ]


def test_a_wider_range_keeps_the_inner_points(step):
    operation = step("f32")["linear2 256"]
    narrow, wide = coarse_points(operation, Ranges(max_tokens=256)), coarse_points(operation, Ranges(max_tokens=2048))
    assert {point.axes["T"] for point in narrow} == {1, 2, 4, 8, 16, 32, 64, 128, 256}
    assert set(narrow) < set(wide)
    assert [point.axes["T"] for point in narrow[:3]] == [1, 256, 16]


@given(st.integers(17, 32768), st.integers(17, 32768), st.text(max_size=8))
def test_rows_of_products_reach_the_limit_and_stay_when_it_grows(one: int, other: int, salt: str):
    low, high = sorted((one, other))
    narrow, wide = product_rows(low, salt), product_rows(high, salt)
    assert narrow == sorted(set(narrow))
    assert (narrow[0], narrow[-1], wide[-1]) == (1, low, high)
    assert set(narrow[:-1]) <= set(wide)


@given(st.text(max_size=8), st.sampled_from([1024, 2048, 4096]))
def test_rows_of_products_are_a_power_of_two_and_the_next_and_six_off_it_in_each_octave(salt: str, octave: int):
    power, edge, *inside = (rows for rows in product_rows(8192, salt) if octave <= rows < 2 * octave)
    assert (power, edge, len(inside)) == (octave, octave + 1, 6)
    assert 1.02 * octave < inside[0]
    assert inside[-1] < 1.95 * octave
    steps = [b / a for a, b in pairwise(inside)]
    assert all(1.05 < step < 1.2 for step in steps)


@given(st.text(max_size=8))
def test_rows_of_products_are_those_of_graphs_and_then_the_middle_of_every_16_between(salt: str):
    """An engine pads steps of up to 512 tokens; beyond, where kernels change most often, any number comes."""
    assert [rows for rows in product_rows(8192, salt) if 256 < rows <= 512] == list(range(272, 513, 16))
    assert [rows for rows in product_rows(8192, salt) if 513 < rows < 1024] == list(range(520, 1024, 16))


def test_products_are_measured_at_different_sizes_above_1024(step):
    found = [coarse_points(step("f32")[name], Ranges(8192)) for name in ("linear2 128", "linear2 512")]
    shared = {rows for point in set(found[0]) & set(found[1]) if not 256 < (rows := point.axes["T"]) < 1024}
    edges = {octave + next_ for octave in (512, 1024, 2048, 4096) for next_ in (0, 1)}
    assert shared < {1, 2, 4, 8, 16, 32, 64, 128, 256, 8192} | edges


def test_rows_of_logits_go_no_further_than_requests(step):
    operation = step("f32")["linear2 512"]
    assert [use.bind for use in operation.uses] == [(("T", "L"),)]
    ranges = Ranges(max_tokens=512, max_requests=8)
    assert rows_limit(operation, ranges) == 8
    assert max(point.axes["T"] for point in coarse_points(operation, ranges)) == 8
    shared = replace(operation, uses=(*operation.uses, Use("m", "p", 1)))
    assert rows_limit(shared, ranges) == 512


def test_attention_grid_has_every_class_of_batch_within_the_ranges(step):
    ranges = Ranges(max_tokens=512, max_requests=16, max_context=2048)
    points = coarse_points(step("f32")["attention3 128"], ranges)
    classes = set()
    for point in points:
        news = {new for new, _, _ in point.requests}
        assert point.axes["T"] <= 512
        assert point.axes["R"] <= 16
        assert point.axes["C"] <= 2048
        if news == {1}:
            classes.add("skewed" if len(point.requests) > 1 else "decode")
        elif 1 in news:
            classes.add("mixed")
        else:
            classes.add("chunk" if any(cached for _, cached, _ in point.requests) else "prefill")
    assert classes == {"decode", "skewed", "mixed", "chunk", "prefill"}
    assert len(points) == len(set(points))


@pytest.mark.parametrize(
    "ranges", [Ranges(1, 1, 1), Ranges(1, 1, 2), Ranges(16, 16, 16), Ranges(4, 2, 3), Ranges(512, 16, 100)]
)
def test_small_ranges_still_give_valid_grids(step, moe, ranges: Ranges):
    for operation in [*step("f32").values(), moe("f32")]:
        points = coarse_points(operation, ranges)
        assert points
        for point in points:
            axes = point.axes
            assert axes["T"] <= ranges.max_tokens
            assert axes.get("C", 1) <= ranges.max_context
            assert axes.get("L", 1) <= ranges.max_requests


def test_decode_is_measured_inside_its_range_too_not_only_at_the_edges(step):
    points = coarse_points(step("f32")["attention3 128"], Ranges(8192, 256, 16384))
    decode = {point.requests[0][1:] for point in points if len(point.requests) == 1 and point.requests[0][0] == 1}
    assert {(15, 1), (15, 256), (16383, 1), (16383, 256)} < decode
    assert {(1023, 4), (1023, 64), (255, 16), (4095, 16)} < decode


def test_one_mixed_batch_has_work_for_nothing_but_its_longest_context(step):
    points = coarse_points(step("f32")["attention3 128"], Ranges(8192, 256, 16384))
    few_tokens = [point for point in points if len(point.requests) == 2 and point.axes["T"] < 32]
    assert {point.axes["C"] for point in few_tokens} == {16384}


def test_experts_are_measured_at_every_doubling_of_the_tokens(moe):
    points = coarse_points(moe("f32"), Ranges(max_tokens=512))
    assert {point.axes["T"] for point in points} >= {1, 2, 4, 8, 16, 32, 64, 128, 256, 512}


def test_operations_are_refined_at_different_sizes(step):
    ranges = Ranges(max_tokens=4096)
    found = set()
    for name in ("linear2 128", "linear2 256", "linear2 512"):
        operation = step("f32")[name]
        measured = taken(operation, coarse_points(operation, ranges), lambda axes: 1.0 + (axes["T"] > 1024))
        found.add(next_point(operation, measured, ranges))
    assert len(found) > 1


def test_moe_grid_stays_within_what_can_be_activated(moe):
    for point in coarse_points(moe("f32"), Ranges()):
        low, high = activated_bounds(point.axes["T"], 8, 2)
        assert low <= point.axes["A"] <= high


@given(st.data())
def test_routing_hits_exactly_so_many_experts(data: st.DataObject):
    experts, tokens = data.draw(st.integers(1, 64)), data.draw(st.integers(1, 64))
    top_k = data.draw(st.integers(1, experts))
    activated = data.draw(st.integers(*activated_bounds(tokens, experts, top_k)))
    routed = routing(tokens, experts, top_k, activated, shift=data.draw(st.integers(0, 99)))
    assert routed.shape == (tokens, top_k)
    assert all(len(set(row)) == top_k for row in routed.tolist())
    assert len(np.unique(routed)) == activated
    assert 0 <= routed.min() <= routed.max() < experts


def test_routing_spreads_tokens_as_a_router_without_favourites():
    counts = np.bincount(routing(2048, 128, 8, 128).ravel(), minlength=128)
    assert 9.0 < counts.std() < 12.5  # of a binomial distribution: 11


def test_impossible_routing_is_refused():
    with pytest.raises(ValueError, match="activate 2 to 8 experts, not 9"):
        routing(100, 8, 2, 9)


def test_a_straight_curve_needs_no_further_point(step):
    operation = step("f32")["linear2 256"]
    ranges = Ranges(max_tokens=256)
    straight = taken(operation, coarse_points(operation, ranges), lambda axes: 3.0 * axes["T"])
    assert next_point(operation, straight, ranges) is None


def test_a_bent_curve_is_refined_at_its_bend_until_the_allowance_ends(step):
    operation = step("f32")["linear2 256"]
    ranges = Ranges(max_tokens=4096)
    points = list(coarse_points(operation, ranges))

    def bent(axes):
        return 10.0 + max(5.0, float(axes["T"]) - 200.0)

    first = next_point(operation, taken(operation, points, bent), ranges)
    assert first is not None
    assert 64 < first.axes["T"] < 1024
    for _ in range(20):
        point = next_point(operation, taken(operation, points, bent), ranges)
        if point is None:
            break
        assert point not in points
        points.append(point)
    assert 1 <= len(points) - len(coarse_points(operation, ranges)) <= 6


def test_the_callers_error_steers_and_stops(step):
    operation = step("f32")["linear2 256"]
    ranges = Ranges(max_tokens=4096)
    measured = taken(operation, coarse_points(operation, ranges), lambda axes: 3.0 * axes["T"])
    wrong_at_the_top = {m.point: (0.5 if m.point.axes["T"] == 4096 else 0.0) for m in measured}
    point = next_point(operation, measured, ranges, lambda _o, _m: wrong_at_the_top)
    assert point is not None
    low, high = sorted(m.point.axes["T"] for m in measured)[-2:]
    assert low * (high / low) ** 0.3 < point.axes["T"] < low * (high / low) ** 0.7
    assert next_point(operation, measured, ranges, lambda _o, _m: dict.fromkeys(wrong_at_the_top, 0.01)) is None


def test_contexts_of_different_lengths_decode_together(step):
    points = coarse_points(step("f32")["attention3 128"], Ranges(8192, 256, 16384))
    ladders = [point.batch for point in points if len({cached for _, cached in point.batch}) > 2]
    uneven = [batch for batch in ladders if all(new == 1 for new, _ in batch)]
    assert sorted(map(len, uneven)) == [8, 24, 48, 128]
    for batch in uneven:
        cached = [cached + 1 for _, cached in batch]
        assert (min(cached), max(cached)) == (256, 4096)


def test_refinement_of_attention_is_new_and_deterministic(step):
    operation = step("f32")["attention3 128"]
    ranges = Ranges()
    measured = taken(operation, coarse_points(operation, ranges), lambda axes: 1.0 + axes["P"])
    first, second = next_point(operation, measured, ranges), next_point(operation, measured, ranges)
    assert first == second
    assert first is not None
    assert first not in {m.point for m in measured}
    assert first.axes["T"] <= ranges.max_tokens
    assert first.axes["C"] <= ranges.max_context


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_tokens": 0}, "max-tokens is 0, expected at least 1"),
        ({"max_context": -1}, "max-context is -1"),
        ({"max_tokens": 4, "max_requests": 8}, "a step holds only max-tokens = 4"),
    ],
)
def test_senseless_ranges(arguments, message: str):
    with pytest.raises(ProfileError, match=message):
        Ranges(**arguments)


def test_a_skewed_sweep_fills_one_expert_at_the_same_tokens_and_experts(moe):
    operation, limits = moe("bf16"), Ranges(max_tokens=64, max_requests=4)
    even = coarse_points(operation, limits)
    points = coarse_points(operation, replace(limits, sweep="skew"))
    assert points[: len(even)] == even
    skewed = points[len(even) :]
    assert {each.axes["M"] for each in skewed if each.axes["T"] == 64 and each.axes["A"] == 8} == {32, 64}
    for point in skewed:
        assert point.skewed
        sizes = point.axes
        assert Point.of(T=sizes["T"], A=sizes["A"]) in even
        assert sizes["T"] * 2 / sizes["A"] < sizes["M"] <= sizes["T"]
        assert len(routing(sizes["T"], 8, 2, sizes["A"], fullest=sizes["M"])) == sizes["T"]
    assert not any(point.skewed for point in even)


def test_skewed_points_do_not_steer_the_sweep(moe):
    operation, limits = moe("bf16"), Ranges(max_tokens=64, max_requests=4)
    points = coarse_points(operation, replace(limits, sweep="skew"))
    measured = taken(operation, points, lambda axes: 10.0 + axes["T"])
    even = [each for each in measured if not each.point.skewed]
    assert next_point(operation, measured, limits) == next_point(operation, even, limits)
