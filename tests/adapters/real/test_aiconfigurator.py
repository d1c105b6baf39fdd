"""AIConfigurator's own loader and engine on exported tables."""

import json
from pathlib import Path

import pytest

from dooly.adapters.aiconfigurator import write_systems
from dooly.adapters.grid import Limits
from dooly.batch import Batch
from dooly.ir.opset import Kind
from dooly.predict import SavedModel, Work

core = pytest.importorskip("aiconfigurator_core", reason="make test-adapters installs aiconfigurator-core")

from aiconfigurator_core.sdk import common, engine, operations, perf_database  # noqa: E402

LIMITS = Limits(tokens=2048, requests=64, context=4096)


class Tables:
    """Asks AIConfigurator for one operation."""

    def __init__(self, root: Path) -> None:
        perf_database.set_systems_paths(str(root))
        self.database = perf_database.get_database("h200_sxm", "vllm", "0.26.0")
        self._engine = engine.EngineHandle.for_database(self.database)

    def __call__(self, operation, requests: int, tokens: int, *, context: bool = True) -> tuple[float, str]:
        """ms, and where they come from."""
        engine._resolve_attention_lane_orders([operation], self.database, None)
        text = engine.build_ops_json([operation])
        found = self._engine.evaluate_ops_json(
            text, is_context=context, batch_size=requests, s=tokens, x=requests * tokens
        )
        ((_, ms, _, source),) = found
        return ms, source


@pytest.fixture(scope="module", params=["model", "mixed", "ranks"])
def exported(request, tmp_path_factory) -> tuple[SavedModel, Tables]:
    model: SavedModel = request.getfixturevalue(request.param)
    root = tmp_path_factory.mktemp("systems")
    sheet = Path(core.__path__[0]) / "systems" / "h200_sxm.yaml"
    (root / sheet.name).write_text(sheet.read_text())
    write_systems(model, root, LIMITS, "h200_sxm")
    return model, Tables(root)


def works(model: SavedModel, kind: Kind) -> list[Work]:
    return [work for work in model.steps.work if work.operation.kind is kind]


def test_the_loader_lists_the_tables(exported: tuple[SavedModel, Tables]) -> None:
    root = perf_database.get_systems_paths()[0]
    listed = json.loads(json.dumps(perf_database.get_supported_databases([root])))
    assert listed == {"h200_sxm": {"vllm": ["0.26.0"]}}
    assert exported[1].database is not None


def test_gemms_come_back_and_are_interpolated(exported: tuple[SavedModel, Tables]) -> None:
    model, ask = exported
    for work in works(model, Kind.GEMM):
        k, n = (int(size) for size in reversed(work.operation.operands[1].shape))
        gemm = operations.GEMM("gemm", 1.0, n, k, common.GEMMQuantMode.bfloat16)
        for m, within in ((1, 1e-6), (64, 1e-6), (50, 0.1)):
            ms, source = ask(gemm, 1, m)
            expected = work.alone_us({"T": m, "L": m})[0] / work.count / 1e3
            assert ms == pytest.approx(expected, rel=within)
            assert source == "silicon"


def test_attention_comes_back(exported: tuple[SavedModel, Tables]) -> None:
    model, ask = exported
    (work,) = works(model, Kind.ATTENTION)
    modes = common.KVCacheQuantMode.bfloat16, common.FMHAQuantMode.bfloat16
    decode = operations.GenerationAttention("decode", 1.0, 32, 8, modes[0], 0, 128)
    ms, source = ask(decode, 8, 1025, context=False)
    expected = work.alone_us(Batch.of(*[(1, 1024)] * 8).attention())[0] / work.count / 1e3
    assert (ms, source) == (pytest.approx(expected, rel=1e-3), "silicon")
    prefill = operations.ContextAttention("prefill", 1.0, 32, 8, *modes, 0, 128)
    times = {tokens: ask(prefill, 1, tokens)[0] for tokens in (512, 1024)}
    own = {n: work.alone_us(Batch.of((n, 0)).attention())[0] / work.count / 1e3 for n in times}
    assert times[1024] - times[512] == pytest.approx(own[1024] - own[512], rel=0.1), "beside a KV write of its own"


def test_experts_come_back(exported: tuple[SavedModel, Tables]) -> None:
    model, ask = exported
    for work in works(model, Kind.MOE):
        mode = common.MoEQuantMode.bfloat16
        moe = operations.MoE("moe", 1.0, 512, 1024, 2, 8, 1, 1, mode, "balanced", 1)
        expected = work.alone_us({"T": 256})[0] / work.count / 1e3
        assert ask(moe, 1, 256)[0] == pytest.approx(expected, rel=1e-3)


def test_all_reduces_come_back(exported: tuple[SavedModel, Tables]) -> None:
    model, ask = exported
    for work in works(model, Kind.COLLECTIVE):
        if work.operation.target == "all_reduce":
            expected = work.alone_us({"T": 256})[0] / work.count / 1e3
            assert ask(operations.CustomAllReduce("reduce", 1.0, 512, 2), 1, 256)[0] == pytest.approx(
                expected, rel=1e-3
            )
