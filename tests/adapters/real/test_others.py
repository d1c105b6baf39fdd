"""Files and objects in the hands of the simulators that pip installs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dooly.adapters.coefficients import write_xpyd
from dooly.adapters.dynamo import write_npz
from dooly.adapters.fleet import FleetProfile
from dooly.adapters.grid import Limits
from dooly.batch import Batch
from dooly.predict import SavedModel

LIMITS = Limits(tokens=512, requests=16, context=2048)


def seconds(model: SavedModel, *requests: tuple[int, int]) -> float:
    return model.steps.step_time(Batch.of(*requests)).total_us * 1e-6


def test_dynamo_replays_on_the_profile(model: SavedModel, tmp_path: Path) -> None:
    pytest.importorskip("dynamo.replay", reason="make test-adapters installs ai-dynamo")
    write_npz(model, tmp_path / "profile.npz", LIMITS)
    report = tmp_path / "report.json"
    engine = {"block_size": 64, "planner_profile_data": str(tmp_path / "profile.npz")}
    arguments = ["--extra-engine-args", json.dumps(engine), "--report-json", str(report), "--request-count", "20"]
    arguments += ["--input-tokens", "256", "--output-tokens", "32", "--arrival-interval-ms", "2000"]
    command = [sys.executable, "-m", "dynamo.replay", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(report.read_text())
    decode = seconds(model, (1, 270))
    assert found["mean_itl_ms"] == pytest.approx(1e3 * decode, rel=0.05)
    first = seconds(model, (256, 0)) + decode  # its first token appears with the first decode step
    assert found["mean_ttft_ms"] == pytest.approx(1e3 * first, rel=0.05)


def test_the_fleet_simulator_serves_requests(model: SavedModel) -> None:
    fleet = pytest.importorskip("fleet_sim.core.fleet", reason="make test-adapters installs vllm-sr-sim")
    from fleet_sim.core.request import Request

    profile = FleetProfile(model, total_kv_blks=4096, max_slots=64, chunk=512)
    pool = fleet.PoolConfig(pool_id="all", gpu=profile, n_gpus=2, max_ctx=2048)
    config = fleet.FleetConfig(pools=[pool], router_type="RandomRouter")
    arrivals = [(i * 0.1, Request(i, i * 0.1, l_in=300, l_out=40)) for i in range(50)]
    result = fleet.Fleet(config).run(arrivals)
    assert len(result.completed) == 50
    lone = seconds(model, (300, 0)) * 1e3
    assert result.p50_ttft_ms() == pytest.approx(lone, rel=0.5)


def test_xpyd_reads_its_profile(model: SavedModel, tmp_path: Path) -> None:
    profiles = pytest.importorskip("xpyd_sim.profile", reason="make test-adapters installs xpyd-sim")
    _, (prefill, decode) = write_xpyd(model, tmp_path / "profile.yaml", LIMITS)
    profile = profiles.LatencyProfile(str(tmp_path / "profile.yaml"))
    assert not profile.has_kv_transfer
    expected = 1e3 * seconds(model, (256, 0))
    assert profile.prefill_delay_ms(256) == pytest.approx(expected, rel=abs(prefill.worst_error) + 1e-9)
    expected = 1e3 * seconds(model, *[(1, 511)] * 8)
    assert profile.decode_delay_per_token_ms(8, 512) == pytest.approx(expected, rel=abs(decode.worst_error) + 1e-9)
