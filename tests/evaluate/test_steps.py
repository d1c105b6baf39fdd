"""Recorded engine steps: the file gives back what was written, and says what is wrong with another one."""

import json
from pathlib import Path

import pytest

from dooly.batch import Batch
from dooly.engine.settings import EngineSettings
from dooly.errors import SimulationError
from dooly.evaluate.record_steps import shapes
from dooly.evaluate.steps import EngineStep, Kernel, StepRecording, load_steps, save_steps

SHIPPED = sorted((Path(__file__).resolve().parents[2] / "dooly" / "data" / "evaluation").glob("*-steps-*.json"))


def step(label: str = "decode-2", gpu_us: float = 900.5, kernels: tuple[Kernel, ...] = ()) -> EngineStep:
    return EngineStep(label, Batch.of((1, 7), (1, 9)), "FULL", 2, 1500.25, gpu_us, (("schedule_us", 80.0),), kernels)


def recording(*steps: EngineStep) -> StepRecording:
    facts = (("device", "some GPU"), ("engine", "vllm 0.0"))
    return StepRecording("tiny-llama", 1, "FLASH_ATTN", EngineSettings(), facts, steps)


def test_a_file_gives_the_recording_back(tmp_path: Path) -> None:
    written = recording(step(), step(kernels=(Kernel("gemm", 2, 80.5), Kernel("norm", 4, 12.25))))
    save_steps(written, tmp_path / "steps.json")
    assert load_steps(tmp_path / "steps.json") == written


def test_launches_of_one_kernel_are_added_up_and_long_names_cut() -> None:
    long = "void flash::" + "x" * 300
    kernels = Kernel.totals([("norm", 2.0), (long, 5.0), ("norm", 1.0), (long + "y", 6.0)])
    assert kernels == (Kernel(long[:160], 2, 11.0), Kernel("norm", 2, 3.0))


def test_profiled_steps_are_kept_apart_from_timed_ones() -> None:
    profiled = step(gpu_us=2000.0, kernels=(Kernel("gemm", 1, 700.0),))
    found = recording(step(gpu_us=900.0), step(gpu_us=910.0), profiled, step("decode-4", 990.0), step(gpu_us=930.0))
    assert found.profiled == (profiled,)
    assert profiled.kernels_us == 700.0
    assert found.gpu_us("decode-2") == 910.0
    assert found.gpu_us("prefill-8") is None
    assert {label: len(steps) for label, steps in found.timed.items()} == {"decode-2": 3, "decode-4": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not recorded steps"),
        ("[]", "not recorded steps"),
        ('{"format": "dooly-steps 0"}', "this version reads 'dooly-steps 1'"),
        ('{"format": "dooly-steps 1", "model": "m"}', "not recorded steps: KeyError: 'tp'"),
    ],
)
def test_another_file_is_refused_in_one_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "steps.json"
    path.write_text(content)
    with pytest.raises(SimulationError, match=message) as raised:
        load_steps(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_batch_without_requests_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "steps.json"
    save_steps(recording(step()), path)
    content = json.loads(path.read_text())
    content["steps"][0]["batch"] = []
    path.write_text(json.dumps(content))
    with pytest.raises(SimulationError, match="no requests"):
        load_steps(path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("wall_us", float("nan"), "expected a finite number, found 'nan'"),
        ("gpu_us", 10**400, "OverflowError"),
        ("gpu_us", "7", "expected a finite number, found '7'"),
        ("padded", 2.5, "expected a whole number of at least 0, found '2.5'"),
        ("batch", [[1, 10**9, 1]], "1,000,000,000 cached tokens of one request; the limit is"),
        ("batch", [[1, 8, 10**9]], "1,000,000,000 requests in one step; the limit is"),
        ("kernels", [["k", -1, 2.0]], "at least 0, found '-1'"),
    ],
)
def test_numbers_that_no_step_can_have_are_refused(tmp_path: Path, field: str, value: object, message: str) -> None:
    path = tmp_path / "steps.json"
    save_steps(recording(step()), path)
    content = json.loads(path.read_text())
    content["steps"][0][field] = value
    path.write_text(json.dumps(content))
    with pytest.raises(SimulationError, match=message):
        load_steps(path)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_what_ships_can_be_read(path: Path) -> None:
    found = load_steps(path)
    assert dict(found.facts)["device"].startswith("NVIDIA")
    assert found.profiled
    assert all(step.padded >= step.batch.tokens and step.wall_us > 0.0 < step.gpu_us for step in found.steps)
    assert all(kernel.us > 0.0 < kernel.count for step in found.profiled for kernel in step.kernels)


def test_steps_are_recorded_as_far_as_the_engine_goes() -> None:
    assert shapes(256, 8192, 16384) == ([128, 512, 2048, 8192], [1, 8, 32, 128])
    assert shapes(256, 8192, 8192) == ([128, 512, 2048, 8191], [1, 8, 32, 128])
    assert shapes(64, 512, 1100) == ([128, 512], [1, 8])
    assert shapes(64, 100, 200) == ([100], [])
