"""Properties that every pass keeps, on random graphs."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dooly.errors import PassError, VerifyError
from dooly.ir import Graph, Op, Program, parse_program, verify
from dooly.passes import PIPELINE, Lower, run, select
from tests.strategies import captured_graphs


@settings(max_examples=30)
@given(captured_graphs())
def test_every_stage_verifies_round_trips_and_is_idempotent(graph):
    program = Program((graph,))
    for each in PIPELINE:
        program = each.run(program)
        verify(program)
        assert parse_program(str(program)) == program, each.name
        assert each.run(program) == program, each.name


def renamed(graph: Graph, prefix: str) -> Graph:
    def op(each: Op) -> Op:
        return replace(
            each,
            operands=tuple(prefix + name for name in each.operands),
            results=tuple(replace(value, name=prefix + value.name) for value in each.results),
        )

    return replace(graph, ops=tuple(map(op, graph.ops)), outputs=tuple(prefix + name for name in graph.outputs))


@settings(max_examples=30)
@given(captured_graphs())
def test_names_of_values_do_not_matter(graph):
    assert run(Program((graph,)), PIPELINE) == run(Program((renamed(graph, "zz"),)), PIPELINE)


@settings(max_examples=30)
@given(captured_graphs(), captured_graphs())
def test_order_of_models_does_not_matter(a, b):
    a, b = replace(a, name="a"), replace(b, name="b")
    assert run(Program((a, b)), PIPELINE).operations == run(Program((b, a)), PIPELINE).operations


@settings(max_examples=30)
@given(captured_graphs())
def test_dedup_keeps_every_models_count(graph):
    a, b = replace(graph, name="a"), replace(graph, name="b")
    before = run(Program((a,)), select("annotate-shapes,propagate-taint,canonicalize,fuse-regions,lower"))
    after = run(Program((a, b)), PIPELINE)
    for model in ("a", "b"):
        assert sum(op.count for op in after.for_model(model)) == sum(op.count for op in before.operations)


@settings(max_examples=30)
@given(captured_graphs(), st.data())
def test_a_dropped_node_is_noticed_after_every_stage(graph, data):
    program = Program((graph,))
    for each in PIPELINE:
        program = each.run(program)
        (current,) = program.graphs
        victims = [op for op in current.ops if op.nodes]
        if not victims:
            continue
        victim = data.draw(st.sampled_from(victims))
        ops = tuple(replace(op, nodes=()) if op is victim else op for op in current.ops)
        with pytest.raises(VerifyError, match="are in no operation and not free"):
            run(Program((replace(current, ops=ops),)), ())


def test_a_pass_that_fails_names_itself_and_those_before():
    program = parse_program(
        'graph "g" { config H = 1 request T  captured 0 %x = input() : f32[T] %y = silu(%x) : f32[T] return %y }'
    )
    with pytest.raises(PassError, match=r"^dedup: .*run lower first \(passes before it: annotate-shapes\)"):
        run(program, select("annotate-shapes,dedup"))


class Forgetful(Lower):
    name = "forgetful"

    def run(self, program: Program, /) -> Program:
        return program


@pytest.mark.parametrize(
    ("passes", "message"),
    [
        ("annotate-shapes,fuse-regions", r"^fuse-regions: %.* is still aten\..*; run canonicalize first"),
        ("canonicalize,lower", r"^lower: %.* has no origins; run propagate-taint first"),
        ("canonicalize,propagate-taint,lower", r"^lower: %.* is in no region; run fuse-regions first"),
        ("canonicalize,cover", r"^cover: there are no operations of 'g' yet; run lower first"),
    ],
)
def test_a_pass_is_not_run_without_the_facts_that_it_requires(passes, message):
    program = parse_program(
        'graph "g" { config H = 4 request T\n captured 2 %x = input() : f32[T, H] %w = weight() : f32[H, H] '
        "%y = aten.linear(%x, %w) : f32[T, H] nodes 0 %z = silu(%y) : f32[T, H] nodes 1 return %z }"
    )
    with pytest.raises(PassError, match=message):
        run(program, select(passes))


def test_a_pass_that_does_not_establish_what_it_says_is_named():
    program = parse_program(
        'graph "g" { config H = 4 request T\n captured 1 %x = input() : f32[T, H] %w = weight() : f32[H, H] '
        "%y = linear(%x, %w) : f32[T, H] nodes 0 return %y }"
    )
    with pytest.raises(PassError, match=r"^forgetful: there are no operations of 'g' yet, though the pass says otherwise"):
        run(program, (*select("propagate-taint"), Forgetful()))


def test_unknown_pass_lists_the_known_ones():
    with pytest.raises(PassError, match=r"unknown pass 'nope'; known passes: annotate-shapes, .*cover"):
        select("dedup,nope")


def test_names_are_unique():
    names = [each.name for each in PIPELINE]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    "text",
    [
        "%y = aten.detach() : f32[T, H]",
        "%y = aten.mm(%x) : f32[T, H]",
        "%y = aten.split_with_sizes(%x) {dim = 7, split_sizes = [H, H]} : f32[T, H]",
        "%y, %z = aten.mm(%x, %w) : f32[T, H], f32[T, H]",
    ],
)
def test_an_operation_without_what_it_needs_is_no_traceback(text):
    program = parse_program(
        'graph "g" { config H = 4 request T\n captured 0 '
        f"%x = input() : f32[T, H] %w = weight() : f32[H, H] {text} return %y }}"
    )
    with pytest.raises(PassError, match="is no well-formed aten"):
        run(program, select("annotate-shapes,canonicalize"))


def test_a_table_without_graphs_goes_through_all_passes():
    program = parse_program(
        'graph "g" { config H = 4 request T\n captured 0 %x = input() : f32[T, H] %w = weight() : f32[H, H] '
        "%y = linear(%x, %w) : f32[T, H] return %y }"
    )
    table = replace(run(program, PIPELINE), graphs=())
    assert table.operations
    assert run(table, PIPELINE) == table
    assert run(replace(program, operations=table.operations), PIPELINE) == run(program, PIPELINE)
