"""Witnesses of models spread over devices and of what a GPU runs, and wrong rules planted there."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dooly.capture import Options, Parallel, resolve_model
from dooly.capture.stages import Stage, distinct_stages
from dooly.errors import CaptureError
from dooly.ir import symbol
from dooly.ir.expr import Expr, FloorDiv
from dooly.provenance import verify_provenance

pytestmark = pytest.mark.engine

EXPERTS = Options(Parallel(tp=2, dp=2, expert=True))
STAGES = Options(Parallel(pp=3))


def refuted(model: str, options: Options) -> list[str]:
    reports = verify_provenance(model, options, count=2)
    return [str(each) for report in reports for each in report.counterexamples]


def test_experts_over_tensor_and_data_parallel_ranks() -> None:
    (report,) = verify_provenance("mixtral-8x7b", EXPERTS, count=3)
    assert [str(each) for each in report.counterexamples] == []
    assert report.holds
    own, *others = report.witnesses
    assert all(values["DP"] != own["DP"] and values["TP"] != own["TP"] for values in others)


def test_two_kinds_of_ranks_taken_for_each_other_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """There are two of each, so that at the model's own configuration nothing is wrong."""
    right = Parallel.group

    def wrong(self: Parallel, name: str) -> tuple[int, Expr]:
        ranks, expression = right(self, name)
        return ranks, symbol("TP") if name == "dp" else expression

    monkeypatch.setattr(Parallel, "group", wrong)
    found = refuted("tiny-mixtral", EXPERTS)
    assert any("block_sparse_moe.experts: vllm.all_gather: attribute ranks: claimed TP" in each for each in found)


def test_every_pipeline_stage_is_compared_where_other_sizes_put_it() -> None:
    reports = verify_provenance("llama-3.1-8b", STAGES, count=3)
    assert [report.model for report in reports] == [f"llama-3.1-8b stages {stage}" for stage in (0, 1, 2)]
    for report in reports:
        assert [str(each) for each in report.counterexamples] == []
        assert report.holds
        assert len({(values["Nl"], values["PP"]) for values in report.witnesses}) > 2


def test_layers_given_to_the_wrong_stage_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 32 layers over 3 stages the first two have 11, the last 10."""
    from dooly.capture import frontend

    def alike(kinds: tuple[Any, ...], stages: int) -> tuple[Stage, ...]:
        layers = FloorDiv(symbol("Nl"), symbol("PP"))
        return tuple(replace(stage, layers=layers) for stage in distinct_stages(kinds, stages))

    monkeypatch.setattr(frontend, "distinct_stages", alike)
    with pytest.raises(CaptureError, match=r"weights are not those of the engine's model: model\.layers\.\*"):
        refuted("llama-3.1-8b", STAGES)


ON_A_GPU = """
import sys
from dataclasses import replace
from dooly.capture import Options, Parallel, capture_stages
from dooly.ir import Value, format_expr
from dooly.provenance import verify_provenance

options = Options(Parallel(2), "h100", None, "fp8", "fp8")
print(verify_provenance("llama-3.2-1b", options, count=2)[0].holds)

(graph,) = capture_stages("llama-3.2-1b", options)
place = next(i for i, op in enumerate(graph.ops) if op.path.endswith("0.self_attn.o_proj.weight"))
op = graph.ops[place]
(value,) = op.results
turned = replace(op, results=(Value(value.name, replace(value.type, shape=value.type.shape[::-1])),))
wrong = replace(graph, ops=(*graph.ops[:place], turned, *graph.ops[place + 1:]))
print(*verify_provenance("llama-3.2-1b", options, graphs=(wrong,), count=1)[0].counterexamples, sep="\\n")
blocks = Options(platform="h100")
print(*{
    (op.results[0].type.dtype, *map(format_expr, op.results[0].type.shape))
    for op in capture_stages(sys.argv[1], blocks)[0].ops
    if "layers.1.mlp.down_proj.weight" in op.path
}, sep="\\n")
print(verify_provenance(sys.argv[1], blocks, count=1)[0].holds)
print(verify_provenance("deepseek-v2-lite", Options(platform="h100"), count=1)[0].holds)
"""


def test_fp8_and_latent_attention_on_a_gpu(tmp_path: Path) -> None:
    """Weights quantized while they are loaded, a checkpoint with a scale for each block, and DeepSeek's sizes."""
    _, config = resolve_model("qwen3-0.6b")
    config["quantization_config"] = {
        "activation_scheme": "dynamic",
        "quant_method": "fp8",
        "weight_block_size": [128, 128],
    }
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", ON_A_GPU, str(tmp_path)], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    first, *found, blocks, latent = done.stdout.splitlines()
    assert first == blocks == latent == "True"
    assert {"('f8e4m3', 'H', 'I')", "('f32', '(H + 127)//128', '(I + 127)//128')"} <= set(found)
    assert any(each.startswith("model.layers.0.self_attn.o_proj.weight: weight: dimension 0") for each in found)
