"""The IR of the bundled models against published figures: parameters, FLOPs, origins, equal families."""

import re

import pytest

from dooly.ir import Kind, Origin, Program, evaluate, verify
from dooly.passes import PIPELINE, run, select
from tests.captures import captured

pytestmark = pytest.mark.engine

DENSE = {
    "command-r7b": 8_028_033_024,
    "gemma-2-9b": 9_241_705_984,
    "gemma-3-4b": 3_880_263_168,  # of 4,300,079,472 in the checkpoint; the rest is the vision tower and its projector
    "llama-2-7b": 6_738_415_616,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "llama-3.2-1b": 1_235_814_400,
    "phi-3-mini": 3_821_079_552,
    "mamba2-2.7b": 2_702_599_680,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-32b": 32_763_876_352,
    "qwen3-0.6b": 596_049_920,  # the checkpoint stores the tied embedding twice and so counts 751,632,384
    "qwen3-8b": 8_190_735_360,
    "qwen3-32b": 32_762_123_264,
}
MIXTURES = {
    "jamba-v0.1": 51_570_323_328,
    "qwen3-next-80b-a3b": 79_674_391_296,  # of 81,324,862,720; the rest is the module that predicts a second token
    "deepseek-v2-lite": 15_706_484_224,
    "deepseek-v3": 671_026_419_200,  # without the 11.6 billion of the module that predicts a second token
    "gpt-oss-20b": 20_914_757_184,
    "gpt-oss-120b": 116_829_156_672,
    "mixtral-8x7b": 46_702_792_704,
    "mixtral-8x22b": 140_620_634_112,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-235b-a22b": 235_093_634_560,
}
PARAMETERS = DENSE | MIXTURES
"""Sizes of the tensors in the published checkpoints on the Hugging Face hub, as their model pages sum them up."""

SPLIT = ("llama-3.1-8b", "llama-3.1-70b", "qwen3-8b", "mixtral-8x7b", "mixtral-8x22b")
CASES = [*((name, 1) for name in PARAMETERS), *((name, 4) for name in SPLIT)]

ANNOTATE = select("annotate-shapes,propagate-taint,expand-opaque,canonicalize,fuse-regions")
TABLES = {"model.embed_tokens.weight", "model.embedding.weight", "backbone.embeddings.weight", "lm_head.weight"}
BUFFERS = ("cos_sin_cache", "normalizer", "_k_scale")


def weights(graph):
    sizes = {
        op.path: evaluate(op.count * op.results[0].type.numel, graph.config_values)
        for op in graph.ops
        if op.target == "weight"
    }
    padding = -graph.config_values["V"] % 64  # rows that the engine adds to tables of the vocabulary
    for path in sizes.keys() & TABLES:
        sizes[path] -= padding * graph.config_values["H"]
    return {path: size for path, size in sizes.items() if not path.endswith(BUFFERS)}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts_are_the_published_ones(name):
    assert sum(weights(captured(name)).values()) == PARAMETERS[name]


@pytest.mark.parametrize(("name", "tp"), CASES)
def test_flops_are_two_per_active_parameter_and_token(name, tp):
    """Every parameter is multiplied once per token, but the embedding table only where it is the output head, too."""
    graph = captured(name, tp)
    program = run(Program((graph,)), PIPELINE)
    work = [op for op in program.operations if op.kind in (Kind.GEMM, Kind.MOE, Kind.ATTENTION)]
    alone = {"T": 1000, "L": 1000, "A": 0, "P": 0, "Pp": 0}  # what attention does beside attending: up-projections
    prefill, decode = {**alone, "Tp": 1000, "Sp": 1000}, {**alone, "Tp": 0, "Sp": 0}
    sizes = weights(graph)
    tied = not any("lm_head" in path for path in sizes)
    experts = graph.config_values.get("E", 1)
    active = sum(
        size * (graph.config_values["K"] / experts if ".experts." in path else 1)
        for path, size in sizes.items()
        if tied or path not in TABLES - {"lm_head.weight"}
    )
    for batch in (prefill, decode):
        flops = sum(evaluate(op.flops, batch) * op.count for op in work)
        assert flops == pytest.approx(2 * 1000 * active, rel=0.01)


@pytest.mark.parametrize(("name", "tp"), CASES)
def test_every_dimension_has_an_origin_and_every_operation_a_cost(name, tp):
    program = run(Program((captured(name, tp),)), ANNOTATE)
    verify(program)
    for op in program.graphs[0].ops:
        for value in op.results:
            assert value.origins is not None
            assert all(isinstance(origin, Origin) for origin in value.origins)
    assert not [op for op in run(program, PIPELINE).operations if op.kind is Kind.UNKNOWN]


FAMILIES = [
    ("gpt-oss-20b", "gpt-oss-120b"),
    ("llama-3.1-8b", "llama-3.1-70b", "llama-3.1-405b"),
    ("mixtral-8x7b", "mixtral-8x22b"),
    ("qwen2.5-7b", "qwen2.5-32b"),
    ("qwen3-8b", "qwen3-32b"),
    ("qwen3-30b-a3b", "qwen3-235b-a22b"),
]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family[0])
def test_a_family_has_one_text_apart_from_the_header(family):
    texts = [text(name) for name in family]
    assert len({body for _, body in texts}) == 1
    assert len({header for header, _ in texts}) == len(family)


def test_llama_2_differs_from_its_family_in_the_element_type_alone():
    (_, two), (_, three) = text("llama-2-7b"), text("llama-3.1-8b")
    assert two != three
    assert re.sub(r"\bf16\b", "bf16", two) == three


def test_a_tied_output_head_is_the_embedding_table():
    """Qwen3-0.6B ties them; apart from the weight that the head reads, it does what its untied family does."""
    tied, untied = captured("qwen3-0.6b"), captured("qwen3-8b")
    assert "lm_head.weight" in weights(untied).keys() - weights(tied).keys()
    assert [op.target for op in tied.ops if op.target != "weight"] == [
        op.target for op in untied.ops if op.target != "weight"
    ]


def text(name: str) -> tuple[str, str]:
    """The annotated text: the line of configuration values, and what follows it; Qwen2.5-32B's eps is not the 7B's."""
    _, header, body = str(run(Program((captured(name),)), ANNOTATE)).split("\n", 2)
    return header, re.sub(r"eps = [0-9.e-]+", "eps", body)


def test_four_models_share_one_table():
    names = ("llama-3.1-8b", "llama-3.1-70b", "qwen3-8b", "mixtral-8x7b")
    program = run(Program(tuple(captured(name) for name in names)), PIPELINE)
    alone = sum(len(run(Program((captured(name),)), PIPELINE).operations) for name in names)
    assert len(program.operations) < alone
    attention = [op for op in program.operations if op.kind is Kind.ATTENTION]
    shared = max(attention, key=lambda op: len(op.uses))
    assert {use.model for use in shared.uses} >= {"llama-3.1-8b", "qwen3-8b", "mixtral-8x7b"}
