"""Properties that every pass keeps, on captures of real models of different kinds of layers."""

from dataclasses import replace
from random import Random

import pytest

from dooly.ir import Graph, Op, Program, parse_program, verify
from dooly.passes import PIPELINE, run
from tests.captures import captured

pytestmark = pytest.mark.engine

MODELS = ("llama-3.1-8b", "gemma-2-9b", "mixtral-8x7b", "deepseek-v2-lite", "mamba2-2.7b")


def shuffled_names(graph: Graph, random: Random) -> Graph:
    """The graph with its values named at random, so that no order of names is that of the capture."""
    names = list(graph.values())
    new = dict(zip(names, (f"v{number}" for number in random.sample(range(10 * len(names)), len(names))), strict=True))

    def op(each: Op) -> Op:
        return replace(
            each,
            operands=tuple(new[name] for name in each.operands),
            results=tuple(replace(value, name=new[value.name]) for value in each.results),
        )

    return replace(graph, ops=tuple(map(op, graph.ops)), outputs=tuple(new[name] for name in graph.outputs))


@pytest.mark.parametrize("model", MODELS)
def test_every_stage_verifies_round_trips_and_is_idempotent(model: str) -> None:
    program = Program((captured(model),))
    for each in PIPELINE:
        program = each.run(program)
        verify(program)
        assert parse_program(str(program)) == program, each.name
        assert each.run(program) == program, each.name


@pytest.mark.parametrize("model", MODELS)
def test_names_of_values_do_not_matter(model: str) -> None:
    graph = captured(model)
    other = shuffled_names(graph, Random(model))
    assert other != graph
    assert run(Program((other,)), PIPELINE) == run(Program((graph,)), PIPELINE)


def test_the_order_of_models_does_not_matter() -> None:
    graphs = [captured(model) for model in MODELS]
    table = run(Program(tuple(graphs)), PIPELINE).operations
    for seed in range(2):
        order = Random(seed).sample(graphs, len(graphs))
        assert run(Program(tuple(order)), PIPELINE).operations == table
