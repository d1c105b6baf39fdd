"""What an H200 shows the engine: as recorded on a real one, as stood in for here, eager and compiled, in fp8."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from dooly.ir import Kind, Operation, evaluate, parse_program
from dooly.passes import PIPELINE, run
from scripts.record_gpu_view import VIEWS, file_name

pytestmark = pytest.mark.engine

ROOT = Path(__file__).resolve().parent.parent.parent
RECORDED = ROOT / "tests" / "golden" / "gpu"
FP8 = "llama-3.1-8b,quantization=fp8,kv_cache_dtype=fp8.ir"
MASKED = "ge ge lt bitwise_and lt bitwise_and bitwise_or bitwise_not mul mul add reshape sub mul embedding masked_fill"
RELEASE_DIFFERENCES = {"llama-3.1-8b,tp=4.ir": (MASKED.split(), ["vocab_parallel_embedding"])}
"""Where vLLM 0.26.0 and the pinned release differ (docs/reference/engine-releases.md): bodies of what only one has."""


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same views with the engine of this environment; a platform needs a process of its own."""
    folder = tmp_path_factory.mktemp("views")
    command = [sys.executable, "scripts/record_gpu_view.py", str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads((folder / "environment.json").read_text())["failed"] == {}
    return folder


@cache
def table(path: Path) -> dict[str, Operation]:
    program = run(parse_program(path.read_text(encoding="utf-8")), PIPELINE)
    return {operation.signature: operation for operation in program.operations}


def test_the_record_is_of_a_real_gpu_and_complete() -> None:
    environment = json.loads((RECORDED / "environment.json").read_text())
    assert environment["gpu"] == "NVIDIA H200"
    assert environment["failed"] == {}
    assert {path.name for path in RECORDED.glob("*.ir")} == {file_name(view) for view in VIEWS}


@pytest.mark.parametrize("name", [file_name(view) for view in VIEWS])
def test_the_platform_stood_in_for_shows_what_the_real_one_showed(name: str, here: Path) -> None:
    real, stood_in = table(RECORDED / name), table(here / name)
    counts = [
        {(key, op.count) for key, op in each.items() if key in real and key in stood_in} for each in (real, stood_in)
    ]
    assert counts[0] == counts[1]
    bodies = [
        [op.target for key in one.keys() - other.keys() if (body := one[key].body) for op in body.ops]
        for one, other in ((real, stood_in), (stood_in, real))
    ]
    assert tuple(bodies) == RELEASE_DIFFERENCES.get(name, ([], []))
    assert len(real) == len(stood_in)


def test_every_operation_of_a_view_is_known(here: Path) -> None:
    for view in VIEWS:
        assert [op.target for op in table(here / file_name(view)).values() if op.status == "unsupported"] == []


def test_eager_mode_runs_operation_by_operation(here: Path) -> None:
    eager = [op.body.ops for op in table(here / "llama-3.1-8b,eager.ir").values() if op.body]
    assert all(len(ops) == 1 for ops in eager)
    compiled = [op.body.ops for op in table(here / file_name(VIEWS[0])).values() if op.body]
    assert max(map(len, compiled)) > 1
    work = [
        sorted({op.target for ops in each for op in ops if op.target not in ("slice", "reshape", "split")})
        for each in (eager, compiled)
    ]
    assert work[0] == work[1]
    targets = {op.target for op in parse_program((here / "llama-3.1-8b,eager.ir").read_text()).graphs[0].ops}
    assert {"_C.rotary_embedding", "_C.silu_and_mul"} <= targets


def test_fp8_halves_the_bytes_of_weights_and_cache_and_keeps_the_flops(here: Path) -> None:
    plain, fp8 = table(here / file_name(VIEWS[0])), table(here / FP8)
    rates = [
        sum(op.count * evaluate(op.flops, {"T": 1}) for op in each.values() if op.kind is Kind.GEMM)
        for each in (plain, fp8)
    ]
    assert rates[0] == rates[1]
    scaled = [op for op in fp8.values() if op.target == "scaled_linear"]
    assert sum(op.count for op in scaled) == 4 * 32
    for op in scaled:
        assert [type_.dtype for type_ in op.operands] == ["f8e4m3", "f8e4m3", "f32", "f32"]
        assert op.results[0].dtype == "bf16"
    assert sum(op.count * evaluate(op.operands[1].bytes, {}) for op in scaled) == 32 * (
        4096 * (6144 + 4096) + 3 * 4096 * 14336
    )
    (attention,) = (op for op in fp8.values() if op.kind is Kind.ATTENTION)
    assert (attention.attr("kv_dtype"), attention.operands[0].dtype) == ("f8e4m3", "f8e4m3")
    assert evaluate(attention.bytes, {"T": 0, "S": 1}) == 2 * 8 * 128
    eager = table(here / FP8.replace(".ir", ",eager.ir"))
    quantized = [op.body.ops[0] for op in eager.values() if op.body and op.body.ops[0].target == "scaled_fp8_quant"]
    assert {op.attr("scale") for op in quantized} == {"token", "given"}
