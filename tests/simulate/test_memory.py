"""KV cache blocks: against what vLLM 0.26.0 allotted on real GPUs, and refusals."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from dooly.engine.settings import EngineSettings
from dooly.errors import SimulationError
from dooly.ir import Operation, read_program
from dooly.ir.types import attributes
from dooly.passes import PIPELINE, run
from dooly.predict import SavedModel, weight_bytes
from dooly.simulate.memory import check_compact, kv_blocks, kv_row_bytes

ROOT = Path(__file__).parents[2]
GIB = 2**30


@cache
def llama() -> SavedModel:
    """Llama-3.1-8B without formulas, which memory does not ask for."""
    program = run(read_program(ROOT / "notebooks" / "llama-3.1-8b.ir"), PIPELINE)
    operations = program.for_model("llama-3.1-8b")
    weights = weight_bytes(program.graphs[0])
    return SavedModel("llama-3.1-8b", "H100", round(79.18 * GIB), weights, {}, {}, operations, {})


def test_weights_are_those_of_the_checkpoint_and_the_table_of_positions() -> None:
    assert llama().weight_bytes == 2 * (8_030_261_248 + 131_072 * 128)


@pytest.mark.parametrize(("memory_gib", "allotted"), [(79.18, 28_982), (139.81, 57_537)])
def test_blocks_are_those_of_the_engine(memory_gib: float, allotted: int) -> None:
    assert kv_row_bytes(llama().operations) * 16 == 2 * 2**20
    assert kv_blocks(llama(), 16, memory_bytes=memory_gib * GIB) == pytest.approx(allotted, rel=0.002)


def test_less_memory_or_more_of_anything_else_leaves_fewer_blocks() -> None:
    base = kv_blocks(llama(), 16)
    assert kv_blocks(llama(), 32) == base // 2
    assert kv_blocks(llama(), 16, utilization=0.5) < base
    assert base - kv_blocks(llama(), 16, other_bytes=2.3 * GIB) == 512


def test_what_cannot_be_derived() -> None:
    with pytest.raises(SimulationError, match="utilization of"):
        kv_blocks(llama(), 16, utilization=1.2)
    with pytest.raises(SimulationError, match="weights are not known; give the number of KV blocks"):
        kv_blocks(replace(llama(), weight_bytes=0), 16)
    with pytest.raises(SimulationError, match=r"92% of 16.0 GiB holds 15.0 GiB of weights .* leaves no KV cache"):
        kv_blocks(llama(), 16, memory_bytes=16 * GIB)
    with pytest.raises(SimulationError, match="there is no KV cache to size"):
        kv_row_bytes([])


def windowed() -> tuple[Operation, ...]:
    def narrow(operation: Operation) -> Operation:
        if operation.target != "attention":
            return operation
        return replace(operation, attrs=attributes(**{**dict(operation.attrs), "window": 128}))

    return tuple(map(narrow, llama().operations))


def test_windows_matter_to_the_compact_scheduler_only_when_blocks_do() -> None:
    check_compact(windowed(), EngineSettings())
    check_compact(llama().operations, EngineSettings(num_blocks=100, prefix_caching=True))
    with pytest.raises(SimulationError, match="window of 128 tokens"):
        check_compact(windowed(), EngineSettings(num_blocks=100))
    with pytest.raises(SimulationError, match="no prefix caching here"):
        check_compact(windowed(), EngineSettings(prefix_caching=True))
