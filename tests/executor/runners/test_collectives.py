"""Collectives between two real processes: what they compute, how they are timed, and what happens when one fails."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dooly.database import Database, Point
from dooly.errors import ProfileError
from dooly.executor import Precision, Ranges, make_plan, run_plan
from dooly.executor.ranks import Ranks
from dooly.executor.runners import why_not
from dooly.executor.session import Unsupported
from dooly.hardware import topology
from dooly.hardware.environment import environment_for, stored_machine
from dooly.hardware.machine import machine
from dooly.ir import Operation, TensorType, attributes, parse_expr

QUICK = Precision(sample_us=1.0, min_samples=3, max_samples=5, floor_s=0.0, cap_s=0.05)


def tensor(dtype: str, *dims: object) -> TensorType:
    return TensorType(dtype, tuple(parse_expr(str(dim)) for dim in dims))


def collective(target: str, operand: TensorType | None, result: TensorType, **attrs: object) -> Operation:
    return Operation(target, () if operand is None else (operand,), (result,), attributes(**attrs))


ALL_REDUCE = collective("all_reduce", tensor("bf16", "T", 64), tensor("bf16", "T", 64), group="tp", ranks=2)


@pytest.fixture(scope="module")
def pair():
    ranks = Ranks(replace(machine(), threads=1), 2)
    yield ranks
    ranks.close()


@pytest.mark.engine
def test_an_all_reduce_is_the_sum_on_both_ranks(pair):
    ((first,), sum_there), ((second,), sum_here) = pair.call(ALL_REDUCE, Point.of(T=5))
    assert first.shape == (5, 64)
    assert not np.array_equal(first, second)
    assert np.array_equal(sum_there, sum_here)
    np.testing.assert_allclose(sum_here, first + second, atol=0.02, rtol=0.01)


@pytest.mark.engine
def test_an_all_gather_puts_the_parts_side_by_side(pair):
    wide = collective("all_gather", tensor("f32", "T", 8), tensor("f32", "T", 16), group="tp", ranks=2, dim=1)
    ((first,), whole), ((second,), same) = pair.call(wide, Point.of(T=3))
    assert np.array_equal(whole, np.concatenate([first, second], axis=1))
    assert np.array_equal(whole, same)
    ids = collective("all_gather", tensor("i32", "T", 2), tensor("i32", "2*T", 2), group="dp", ranks=2, dim=0)
    ((first,), whole), ((second,), _) = pair.call(ids, Point.of(T=3))
    assert np.array_equal(whole, np.concatenate([first, second]))


@pytest.mark.engine
def test_a_reduce_scatter_leaves_each_rank_its_rows_of_the_sum(pair):
    rows = collective("reduce_scatter", tensor("f32", "2*T", 8), tensor("f32", "T", 8), group="ep", ranks=2, dim=0)
    ((first,), upper), ((second,), lower) = pair.call(rows, Point.of(T=3))
    np.testing.assert_allclose(np.concatenate([upper, lower]), first + second, rtol=1e-6)


@pytest.mark.engine
@pytest.mark.parametrize("target", ["send", "recv"])
def test_a_stage_hands_on_what_the_next_receives(pair, target: str):
    states = tensor("bf16", "T", 32)
    handed = collective(target, states if target == "send" else None, states, group="pp")
    (_, sent), (_, received) = pair.call(handed, Point.of(T=4))
    assert sent.shape == (4, 32)
    assert np.array_equal(sent, received)


@pytest.mark.engine
def test_ranks_that_end_are_named_and_others_take_their_place(pair):
    pair.call(ALL_REDUCE, Point.of(T=1))
    os.kill(pair._processes[1].pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="rank 1 ended by SIGKILL"):
        pair.measure(ALL_REDUCE, Point.of(T=1), QUICK)
    with pytest.raises(Unsupported, match="no runner for all_to_all"):
        pair.measure(replace(ALL_REDUCE, target="all_to_all"), Point.of(T=1), QUICK)
    samples = pair.measure(ALL_REDUCE, Point.of(T=1), QUICK)
    assert len(samples.values_us) >= 3
    assert min(samples.values_us) > 0.0


@pytest.mark.engine
def test_a_plan_measures_collectives_where_there_are_enough_devices(tmp_path: Path):
    here = replace(machine(), devices=2)
    database = Database(tmp_path / "latency.db")
    wide = replace(ALL_REDUCE, attrs=attributes(group="tp", ranks=64))
    plan = replace(make_plan([ALL_REDUCE, wide], database, here, Ranges(max_tokens=8, max_requests=4)), host_s=0.0)
    outcome = run_plan(plan, database, budget_s=300.0, precision=QUICK)
    assert (outcome.failed, outcome.left) == (0, [])
    assert len(database.points(ALL_REDUCE.signature, environment_for(ALL_REDUCE, here))) >= 4
    assert outcome.skipped == 4
    database.close()


def test_what_lacks_devices_says_how_many_it_needs(somewhere):
    assert why_not(ALL_REDUCE, replace(somewhere, devices=2)) is None
    reason = why_not(ALL_REDUCE, somewhere)
    assert reason == "a collective over 2 ranks of 2 threads needs 4 processors; OMP_NUM_THREADS=1 asks for fewer"
    gpu = replace(somewhere, platform="h200")
    assert why_not(ALL_REDUCE, gpu) == "a collective over 2 ranks needs as many GPUs; there are 1"
    alone = replace(ALL_REDUCE, attrs=attributes(group="tp", ranks=1))
    assert why_not(alone, somewhere) == "a collective over one rank does nothing"


FACTS = {"all_reduce": "custom", "communication": "NCCL_NVLS_ENABLE=0", "links": "18 x NVLink 4", "nccl": "2.28.9"}


@pytest.fixture
def two_gpus(somewhere):
    facts = {"cuda": "13.0", "driver": "580.1"} | FACTS
    return replace(
        somewhere, platform="h200", device="NVIDIA H200", devices=2, mode="graph", facts=tuple(facts.items())
    )


def test_links_and_settings_are_part_of_the_environment_of_collectives_alone(two_gpus, step):
    here = environment_for(ALL_REDUCE, two_gpus)
    assert {name: here.get(name) for name in FACTS} == FACTS
    only_nccl = replace(two_gpus, facts=tuple((dict(two_gpus.facts) | {"all_reduce": "nccl"}).items()))
    assert environment_for(ALL_REDUCE, only_nccl) != here
    gemm = step("bf16")["linear2 256"]
    assert environment_for(gemm, only_nccl) == environment_for(gemm, two_gpus)
    handed = collective("send", tensor("bf16", "T", 32), tensor("bf16", "T", 32), group="pp")
    assert environment_for(handed, two_gpus).get("mode") == "eager"


def test_a_stored_machine_has_the_environment_of_its_collectives(two_gpus, tmp_path: Path):
    from dooly.database import Samples

    database = Database(tmp_path / "latency.db")
    database.add_operation(ALL_REDUCE.signature, "all_reduce", "text")
    claim = database.claim(ALL_REDUCE.signature, environment_for(ALL_REDUCE, two_gpus), Point.of(T=1))
    assert claim is not None
    database.record_ok(claim, Samples((5.0,)))
    found = stored_machine(database, "h200")
    assert environment_for(ALL_REDUCE, found) == environment_for(ALL_REDUCE, two_gpus)
    with pytest.raises(ProfileError, match="nothing measured on h100"):
        stored_machine(database, "h100")
    database.close()


class Nvml(SimpleNamespace):
    """Two GPUs as NVML would describe them, `nvlinks` up between each and a switch."""

    NVMLError = RuntimeError
    NVML_P2P_CAPS_INDEX_NVLINK, NVML_P2P_CAPS_INDEX_READ = 2, 0
    NVML_P2P_STATUS_OK, NVML_FEATURE_ENABLED, NVML_NVLINK_MAX_LINKS = 0, 1, 18

    def nvmlInit(self):
        pass

    nvmlShutdown = nvmlInit

    def nvmlDeviceGetHandleByUUID(self, uuid):
        return uuid

    def nvmlDeviceGetP2PStatus(self, one, other, what):
        return 0 if what == 0 or self.nvlinks else 5

    def nvmlDeviceGetNvLinkState(self, handle, link):
        if link >= self.nvlinks:
            raise RuntimeError("not supported")
        return 1

    def nvmlDeviceGetNvLinkVersion(self, handle, link):
        return 4

    def nvmlDeviceGetTopologyCommonAncestor(self, one, other):
        return 40


@pytest.mark.parametrize(
    ("nvlinks", "uuids", "links"),
    [(18, "ab", "18 x NVLink 4"), (0, "ab", "one NUMA node, direct"), (18, "a", "")],
)
def test_the_weakest_connection_is_read_from_the_machine(monkeypatch, nvlinks: int, uuids: str, links: str):
    monkeypatch.setitem(__import__("sys").modules, "pynvml", Nvml(nvlinks=nvlinks))
    assert topology.links_between(uuids) == links


def test_settings_are_those_that_choose_a_way(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("NCCL_", "VLLM_ALLREDUCE_", "TORCH_SYMM", "NVSHMEM"))]:
        monkeypatch.delenv(name)
    assert topology.settings() == "defaults"
    monkeypatch.setenv("VLLM_ALLREDUCE_USE_SYMM_MEM", "0")
    monkeypatch.setenv("NCCL_NVLS_ENABLE", "0")
    monkeypatch.setenv("NCCL_DEBUG", "INFO")
    assert topology.settings() == "NCCL_NVLS_ENABLE=0 VLLM_ALLREDUCE_USE_SYMM_MEM=0"
    monkeypatch.setenv("TORCH_SYMM_MEM_DISABLE_MULTICAST", "1")
    assert topology.settings() == "NCCL_NVLS_ENABLE=0 TORCH_SYMM_MEM_DISABLE_MULTICAST=1"
