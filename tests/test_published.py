"""The IR of the bundled models against published figures: parameters, FLOPs, origins, equal families."""

import pytest

from dooly.ir import Kind, Origin, Program, evaluate, verify
from dooly.passes import PIPELINE, run, select

pytestmark = pytest.mark.engine

PARAMETERS = {
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "qwen3-8b": 8_190_735_360,
    "mixtral-8x7b": 46_702_792_704,
    "mixtral-8x22b": 140_620_634_112,
}
"""As the model cards and the tensors of the published checkpoints have it."""

ANNOTATE = select("annotate-shapes,propagate-taint,expand-opaque,canonicalize,fuse-regions")


@pytest.fixture(scope="module", params=[1, 4], ids=["tp1", "tp4"])
def graphs(request):
    from dooly.capture import capture

    return {name: capture(name, tp=request.param) for name in PARAMETERS}


def weights(graph):
    sizes = {
        op.path: evaluate(op.count * op.results[0].type.numel, graph.config_values)
        for op in graph.ops
        if op.target == "weight"
    }
    return {path: size for path, size in sizes.items() if not path.endswith("cos_sin_cache")}


def test_parameter_counts_are_the_published_ones(graphs):
    for name, graph in graphs.items():
        if "TP" in graph.config_values:
            continue
        assert sum(weights(graph).values()) == PARAMETERS[name], name


def test_flops_are_two_per_active_parameter_and_token(graphs):
    for name, graph in graphs.items():
        tp = graph.config_values.get("TP", 1)
        (done,) = (run(Program((graph,)), PIPELINE),)
        work = [op for op in done.operations if op.kind in (Kind.GEMM, Kind.MOE)]
        values = {"T": 1000, "L": 1000, "A": 0}
        flops = sum(evaluate(op.flops, values) * op.count for op in work)
        sizes = weights(graph)
        experts = graph.config_values.get("E", 1)
        active = sum(
            size * (graph.config_values["K"] / experts if ".experts." in path else 1)
            for path, size in sizes.items()
            if "embed_tokens" not in path
        )
        assert flops == pytest.approx(2 * 1000 * active, rel=0.01), (name, tp)


def test_every_dimension_has_an_origin(graphs):
    for graph in graphs.values():
        program = run(Program((graph,)), ANNOTATE)
        verify(program)
        for op in program.graphs[0].ops:
            for value in op.results:
                assert value.origins is not None
                assert all(isinstance(origin, Origin) for origin in value.origins)


@pytest.mark.parametrize(("one", "other"), [("llama-3.1-8b", "llama-3.1-70b"), ("mixtral-8x7b", "mixtral-8x22b")])
def test_a_family_has_one_text_apart_from_the_header(graphs, one, other):
    texts = [str(run(Program((graphs[name],)), ANNOTATE)).split("\n", 2) for name in (one, other)]
    assert texts[0][2] == texts[1][2]
    assert texts[0][0] != texts[1][0]


def test_four_models_share_one_table(graphs):
    names = ("llama-3.1-8b", "llama-3.1-70b", "qwen3-8b", "mixtral-8x7b")
    program = run(Program(tuple(graphs[name] for name in names)), PIPELINE)
    alone = sum(len(run(Program((graphs[name],)), PIPELINE).operations) for name in names)
    assert len(program.operations) < alone
    attention = [op for op in program.operations if op.kind is Kind.ATTENTION]
    shared = max(attention, key=lambda op: len(op.uses))
    assert {use.model for use in shared.uses} >= {"llama-3.1-8b", "qwen3-8b", "mixtral-8x7b"}
