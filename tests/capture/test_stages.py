"""Pipeline stages: the engine's partition, and stages that together are the whole model."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dooly.capture import Options, Parallel, capture, capture_stages
from dooly.capture.stages import distinct_stages
from dooly.errors import CaptureError
from dooly.ir import Graph, Kind, Program, evaluate, verify_graph
from dooly.passes import PIPELINE, run


@given(st.integers(1, 130), st.integers(1, 16), st.integers(1, 3))
def test_stages_have_the_layers_that_the_engine_gives_them(layers: int, stages: int, period: int) -> None:
    stages = min(stages, layers)
    expected = [layers // stages] * stages
    for position in range(2, layers % stages + 2):  # vLLM: get_pp_indices
        expected[-position] += 1
    kinds = tuple(index % period for index in range(layers))
    found = distinct_stages(kinds, stages)
    assert [len(stage.kinds) for stage in found for _ in range(stage.rank, stage.last + 1)] == expected
    for stage in found:
        assert evaluate(stage.layers, {"Nl": layers, "PP": stages}) == len(stage.kinds)
        assert kinds[stage.start : stage.start + len(stage.kinds)] == stage.kinds


def totals(graph: Graph) -> tuple[int, int]:
    """FLOPs of products and attention, and parameters."""
    batch = {"T": 7, "P": 100, "S": 50, "R": 2, "Tp": 6, "Pp": 90, "Sp": 40}
    operations = run(Program((graph,)), PIPELINE).operations
    work = [op for op in operations if op.kind in (Kind.GEMM, Kind.ATTENTION, Kind.MOE)]
    weights = [op for op in graph.ops if op.target == "weight" and not op.path.endswith("cache")]
    return (
        sum(op.count * int(evaluate(op.flops, batch)) for op in work),
        sum(int(evaluate(op.count * op.results[0].type.numel, graph.config_values)) for op in weights),
    )


@pytest.mark.engine
@pytest.mark.parametrize(
    ("model", "tp", "pp"), [("llama-3.1-8b", 1, 5), ("llama-3.1-8b", 2, 3), ("deepseek-v2-lite", 1, 3)]
)
def test_stages_add_up_to_the_whole_model(model: str, tp: int, pp: int) -> None:
    graphs = capture_stages(model, Options(Parallel(tp, pp=pp)))
    flops = parameters = ranks = 0
    for graph in graphs:
        verify_graph(graph)
        first, _, last = dict(graph.settings)["stages"].partition("-")
        times = int(last or first) - int(first) + 1
        found = totals(graph)
        flops, parameters, ranks = flops + times * found[0], parameters + times * found[1], ranks + times
        moved = [op.target for op in graph.ops if op.target in ("dooly.recv", "dooly.send")]
        assert ("dooly.recv" in moved, "dooly.send" in moved) == (first != "0", (last or first) != str(pp - 1))
    whole = capture(model, tp=tp)
    assert (ranks, flops, parameters) == (pp, *totals(whole))
    known = {op.signature for op in run(Program((whole,)), PIPELINE).operations}
    parts = run(Program(graphs), PIPELINE).operations
    assert {op.target for op in parts if op.signature not in known and op.kind is not Kind.REGION} <= {
        "send",
        "recv",
        "all_gather",
    }


@pytest.mark.engine
def test_stages_hand_on_hidden_states_and_residual() -> None:
    first, _ = capture_stages("llama-3.1-8b", Options(Parallel(2, pp=2)))
    operations = run(Program((first,)), PIPELINE).operations
    (sent,) = (op for op in operations if op.target == "send")
    assert (sent.count, sent.kind, evaluate(sent.bytes, {"T": 3})) == (2, Kind.COLLECTIVE, 3 * 2048 * 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parallel": Parallel(pp=0)}, "pipeline parallel size 0 is not a positive integer"),
        ({"parallel": Parallel(pp=33)}, "33 pipeline stages for 32 layers"),
        ({"quantization": "fp8"}, "quantization fp8 is not on platform cpu"),
        ({"kv_cache_dtype": "fp8"}, "KV cache dtype fp8 is not on platform cpu"),
        ({"quantization": "fp4", "platform": "h100"}, "unknown quantization 'fp4'; known: fp8"),
    ],
)
def test_options_that_the_engine_has_not_are_one_line(options: dict[str, object], message: str) -> None:
    with pytest.raises(CaptureError, match=message):
        capture_stages("llama-3.1-8b", Options(**options))  # pyright: ignore[reportArgumentType]


def test_experts_are_not_quantized() -> None:
    with pytest.raises(CaptureError, match="mixtral-8x7b: experts with fp8 weights are not captured yet"):
        capture_stages("mixtral-8x7b", Options(platform="h200", quantization="fp8"))


def test_stages_do_not_split_experts() -> None:
    config = {"num_hidden_layers": 48, "vocab_size": 64, "num_experts": 8, "intermediate_size": 512, "hidden_size": 64}
    Parallel(tp=2, pp=3).check(config, "mixture")
    Parallel(tp=8, pp=2, expert=True).check(config, "mixture")
    with pytest.raises(CaptureError, match="16 expert-parallel ranks are more than the 8 experts"):
        Parallel(tp=8, dp=2, expert=True).check(config, "mixture")
