"""Quantized checkpoints as an H200 runs them: bytes of the weights, kernels, FLOPs; and what is refused."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from dooly.capture import Options, capture_stages, resolve_model
from dooly.capture.checked import check_counts, check_sizes
from dooly.errors import CaptureError
from dooly.ir import Graph, Kind, Operation, Program, evaluate, parse_program
from dooly.ir.expr import symbol
from dooly.passes import PIPELINE, run
from tests.capture.quantized import write
from tests.captures import captured

pytestmark = pytest.mark.engine

ROOT = Path(__file__).resolve().parent.parent.parent
MACHETE, MARLIN = ("packed_linear", "machete_mm"), ("packed_linear", "marlin_gemm")
BLOCK = ("packed_linear", "dynamic_flashinfer_deepgemm_blockscale_gemm")
SCALED, PLAIN = ("scaled_linear", None), ("linear", None)

BITS_AND_KERNELS: dict[str, tuple[float, tuple[str, str | None]]] = {
    "plain": (16, PLAIN),
    "fp8-dynamic": (8, SCALED),
    "fp8-static": (8, SCALED),
    "fp8-block": (8 + 32 / 128**2, BLOCK),
    "ct-fp8-dynamic": (8 + 32 / 1024, SCALED),
    "ct-fp8-static": (8, SCALED),
    "ct-int8": (8 + 32 / 1024, SCALED),
    "ct-w4a16": (4 + 16 / 128, MACHETE),
    "ct-nvfp4": (4 + 8 / 16, MARLIN),
    "awq": (4 + (16 + 16) / 128, MACHETE),
    "gptq": (4 + (16 + 4) / 128, MACHETE),
    "fbgemm": (8 + 32 / 1024, SCALED),
    "modelopt-fp8": (8, SCALED),
    "modelopt-fp8-beside": (8, SCALED),
    "modelopt-nvfp4": (4 + 8 / 16, MARLIN),
}
"""Bits of a weight of the first projection, its share of scales and zero points included, and the product's kernel.

Machete takes zero points as numbers of the model's type; those of GPTQ stay packed, and unread where weights are
symmetric.
"""


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Program]:
    """All of them as captured and lowered, by name."""
    folder = tmp_path_factory.mktemp("checkpoints")
    return programs_of(folder, write(folder).values(), "h200")


def programs_of(folder: Path, models: Iterable[Path], platform: str) -> dict[str, Program]:
    """Checkpoints as captured and lowered, by name; a platform needs a process of its own."""
    command = [sys.executable, "-m", "dooly.passes", *map(str, models), "--platform", platform]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "-p", "annotate-shapes", "-o", str(folder / "all.ir")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr == ""
    graphs = parse_program((folder / "all.ir").read_text(encoding="utf-8")).graphs
    return {graph.name: Program(graphs=(graph,)) for graph in graphs}


def operations(program: Program) -> tuple[Operation, ...]:
    return run(program, PIPELINE).operations


def test_fp8_products_of_a_blackwell_gpu_are_the_same_work(tmp_path: Path, programs: dict[str, Program]) -> None:
    models = write(tmp_path)
    found = programs_of(tmp_path, [models["modelopt-fp8"]], "b200")["modelopt-fp8"]
    here, there = (
        {op.signature for op in operations(each) if op.target == "scaled_linear"}
        for each in (programs["modelopt-fp8"], found)
    )
    assert here == there != set()


def weight_bits(graph: Graph, module: str) -> float:
    """Bits of all that a module holds, by the weights of its matrix."""
    held = [op for op in graph.ops if op.target == "weight" and f"layers.0.{module}." in op.path]
    bytes_ = sum(int(evaluate(op.results[0].type.bytes, graph.config_values)) for op in held)
    sizes = graph.config_values
    return 8 * bytes_ / (sizes["H"] * sizes["D"] * (sizes["Nq"] + 2 * sizes["Nkv"]))


@pytest.mark.parametrize("name", BITS_AND_KERNELS)
def test_weights_have_their_true_bits_and_products_the_kernel_that_the_engine_chooses(
    name: str, programs: dict[str, Program]
) -> None:
    bits, (target, kernel) = BITS_AND_KERNELS[name]
    (graph,) = programs[name].graphs
    assert weight_bits(graph, "self_attn.qkv_proj") == pytest.approx(bits, rel=2e-3)
    products = [op for op in operations(programs[name]) if op.kind is Kind.GEMM and op.operands[1].dtype != "bf16"]
    found = {(op.target, op.attr("kernel")) for op in products}
    assert found == (set() if name == "plain" else {(target, kernel)})


@pytest.mark.parametrize("name", BITS_AND_KERNELS)
def test_flops_are_those_of_the_plain_model_and_nothing_is_unknown(name: str, programs: dict[str, Program]) -> None:
    plain, packed = (operations(programs[each]) for each in ("plain", name))
    flops = [
        sum(op.count * int(evaluate(op.flops, {"T": 64})) for op in each if op.kind is Kind.GEMM)
        for each in (plain, packed)
    ]
    assert flops[0] == flops[1]
    assert not [op.target for op in packed if op.status == "unsupported"]


@pytest.mark.parametrize(
    ("name", "cache"), [("plain", "bf16"), ("ct-fp8-static", "f8e4m3"), ("modelopt-fp8-beside", "f8e4m3")]
)
def test_a_checkpoint_says_how_its_cache_is_stored(name: str, cache: str, programs: dict[str, Program]) -> None:
    (attention,) = (op for op in operations(programs[name]) if op.kind is Kind.ATTENTION)
    assert attention.attr("kv_dtype") == cache


@pytest.mark.parametrize(
    ("name", "plain_bits", "backend"),
    [("experts-fp8-block", 8 + 32 / 128**2, "TRITON"), ("experts-mxfp4", 4.25, "TRITON")],
)
def test_experts_have_their_stored_bytes_and_the_flops_of_what_they_stand_for(
    name: str, plain_bits: float, backend: str, programs: dict[str, Program]
) -> None:
    experts = next(op for op in operations(programs[name]) if op.kind is Kind.MOE)
    hidden, inner, chosen = (int(str(experts.attr(each))) for each in ("hidden", "intermediate", "top_k"))
    assert int(evaluate(experts.flops, {"T": 1})) == 2 * chosen * 3 * hidden * inner
    matrices = [type_ for type_ in experts.operands[2:] if len(type_.shape) == 3]
    bits = 8 * sum(int(type_.bytes / type_.shape[0]) for type_ in matrices) / (3 * hidden * inner)
    assert bits == pytest.approx(plain_bits, rel=0.02)
    assert experts.attr("backend") == "TRITON"
    assert json.loads(str(experts.attr("scheme")))["quant_method"]


@pytest.mark.parametrize("name", ["fp8-block", "experts-fp8-block"])
def test_fields_that_the_engine_does_not_read_do_not_make_other_work(name: str, programs: dict[str, Program]) -> None:
    """The checkpoints also name their format, which no kernel depends on."""
    schemes = {json.dumps(op.attr("scheme")) for op in operations(programs[name]) if op.attr("scheme") is not None}
    read = {"activation_scheme": "dynamic", "quant_method": "fp8", "weight_block_size": [128, 128]}
    assert [json.loads(json.loads(each)) for each in schemes] == [read]


def test_weights_whose_names_end_in_numbers_are_told_apart(programs: dict[str, Program]) -> None:
    """Experts of NVFP4 have a ``w13_weight_scale`` and a ``w13_weight_scale_2``."""
    (graph,) = programs["experts-nvfp4"].graphs
    names = [value.name for op in graph.ops for value in op.results]
    assert len(set(names)) == len(names)
    assert "routed_experts_w13_weight_scale_2" in names


def test_a_quantization_that_the_engine_ignores_is_refused(tmp_path: Path) -> None:
    _, config = resolve_model("llama-3.2-1b")
    (tmp_path / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_algo": "FP8"}}))
    with pytest.raises(CaptureError, match="the engine ignores its quantization_config"):
        capture_stages(tmp_path, Options())


def test_what_older_modelopt_says_in_a_file_of_its_own_is_read(tmp_path: Path) -> None:
    _, config = resolve_model("llama-3.2-1b")
    (tmp_path / "config.json").write_text(json.dumps(config))
    said = {"quantization": {"quant_algo": "FP8"}}
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(said))
    assert resolve_model(tmp_path)[1]["quantization_config"] == said


def test_weights_that_are_not_the_engines_are_named() -> None:
    graph = captured("tiny-llama")
    built = {
        op.path: tuple(int(evaluate(size, graph.config_values)) for size in (type_.numel, type_.bytes))
        for op in graph.ops
        if op.target == "weight" and not op.path.endswith("cache")
        for type_ in (op.results[0].type,)
    }
    amounts = {name: (elements, size) for name, (elements, size) in built.items()}
    check_sizes(graph, amounts, "m")
    name = "model.layers.0.mlp.down_proj.weight"
    elements, size = amounts[name]
    with pytest.raises(CaptureError, match=rf"m: weights are not those of the engine's model: {name} has {2 * size:,}"):
        check_sizes(graph, {**amounts, name: (elements, 2 * size)}, "m")
    layer = {name: (elements, size)}
    whole = {f"model.layers.{index}.mlp.down_proj.weight": (elements, size) for index in range(3)}
    check_counts(layer, graph, lambda _: symbol("Nl") - symbol("Nl") + 3, whole, "m")
    with pytest.raises(CaptureError, match=r"layers\.\*\.mlp"):
        check_counts(layer, graph, lambda _: symbol("Nl") - symbol("Nl") + 2, whole, "m")
