"""The files as their readers describe them; tests/adapters/real reads them with the simulators themselves."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dooly.adapters.coefficients import write_distserve, write_xpyd
from dooly.adapters.dynamo import write_npz
from dooly.adapters.fleet import FleetProfile
from dooly.adapters.grid import Limits, doubling
from dooly.adapters.llmservingsim import write_bundle
from dooly.adapters.splitwise import COLUMNS, write_csv
from dooly.adapters.vidur.tables import write_tables
from dooly.batch import Batch
from dooly.errors import PredictError
from dooly.fit import Observation, fit_host
from dooly.predict import SavedModel
from tests.adapters.conftest import LAYERS

LIMITS = Limits(tokens=256, requests=8, context=1024)


def total_ms(model: SavedModel, *requests: tuple[int, int]) -> float:
    return model.steps.step_time(Batch.of(*requests)).total_us / 1e3


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_limits_are_checked() -> None:
    with pytest.raises(PredictError, match="tables up to 0 tokens, 8 requests, contexts of 1024"):
        Limits(0, 8, 1024)


def test_sizes_double_up_to_the_largest() -> None:
    assert doubling(1) == [1]
    assert doubling(6) == [1, 2, 4, 6]


def test_dynamo_arrays_hold_step_times(model: SavedModel, tmp_path: Path) -> None:
    path = tmp_path / "profile.npz"
    write_npz(model, path, LIMITS)
    with np.load(path) as arrays:
        prompts, ttft = arrays["prefill_isl"], arrays["prefill_ttft_ms"]
        active, contexts, itl = (arrays[f"decode_{name}"] for name in ("active_kv_tokens", "context_length", "itl"))
    assert itl.shape == (len(active), len(contexts))
    assert {array.dtype for array in (prompts, ttft, active, contexts, itl)} == {np.dtype(np.float64)}
    assert all(np.all(np.diff(axis) > 0) for axis in (prompts, active, contexts))
    at = int(np.searchsorted(prompts, 200))
    assert ttft[at] == pytest.approx(total_ms(model, (int(prompts[at]), 0)))
    chunked = total_ms(model, (256, 0)) + total_ms(model, (256, 256))
    assert ttft[int(np.searchsorted(prompts, 512))] == pytest.approx(chunked, rel=0.01)
    k, c = len(active) // 2, len(contexts) // 2
    count = round(active[k] / contexts[c])
    assert itl[k, c] == pytest.approx(total_ms(model, *[(1, int(contexts[c]) - 1)] * min(count, 8)))


def test_splitwise_rows_are_steps_of_so_many_tokens(model: SavedModel, tmp_path: Path) -> None:
    path = tmp_path / "perf_model.csv"
    write_csv(model, path, LIMITS, "h200", "llama2-70b")
    found = rows(path)
    assert tuple(found[0]) == COLUMNS
    assert {(row["model"], row["hardware"], row["tensor_parallel"]) for row in found} == {("llama2-70b", "h200", "1")}
    by_size = {int(row["prompt_size"]): row for row in found}
    assert float(by_size[128]["prompt_time"]) == pytest.approx(total_ms(model, (128, 0)))
    assert float(by_size[4]["token_time"]) == pytest.approx(total_ms(model, *[(1, 1023)] * 4))
    assert by_size[256]["token_time"] == by_size[8]["token_time"]


def test_xpyd_coefficients_follow_the_steps_as_far_as_they_say(model: SavedModel, tmp_path: Path) -> None:
    path = tmp_path / "profile.yaml"
    _, (prefill, decode) = write_xpyd(model, path, LIMITS)
    content = json.loads(path.read_text())
    assert [each["name"] for each in content["projection"]] == ["prefill", "decode"]
    for tokens in doubling(256):
        time = np.polyval(content["prefill"]["coefficients"], tokens)
        assert abs(time / total_ms(model, (tokens, 0)) - 1) <= abs(prefill.worst_error) + 1e-9
    c = content["decode"]["coefficients"]
    b, x = 4, 512
    time = c[0] + c[1] * b + c[2] * x + c[3] * b * x + c[4] * b**2 + c[5] * x**2
    assert abs(time / total_ms(model, *[(1, x - 1)] * b) - 1) <= abs(decode.worst_error) + 1e-9
    assert 0 <= decode.mean_error <= abs(decode.worst_error) < 0.2
    assert "% mean" in str(decode)


def test_distserve_takes_off_the_millisecond_that_it_adds(model: SavedModel, tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    _, (prefill, *_) = write_distserve(model, path, LIMITS, "facebook/opt-13b")
    content = json.loads(path.read_text())["facebook/opt-13b"]["1"]
    assert content["decoding_large_small_bs_threshold"] == 95
    a, b, c = content["prefill"]
    time = a + b * 256 + c * 2 * 128**2 + 1
    assert abs(time / total_ms(model, (128, 0), (128, 0)) - 1) <= abs(prefill.worst_error) + 1e-9
    a, b, c = content["decoding_smallbs"]
    assert a + b * 8 * 512 + c * 8 == pytest.approx(total_ms(model, *[(1, 511)] * 8), rel=0.2)


def test_vidur_tables_hold_one_layer(model: SavedModel, tmp_path: Path) -> None:
    write_tables(model, tmp_path, LIMITS, block_size=16)
    mlp, attention = rows(tmp_path / "mlp.csv"), rows(tmp_path / "attention.csv")
    keys = ("n_head", "n_kv_head", "n_embd", "n_expanded_embd", "vocab_size", "num_tensor_parallel_workers")
    assert {tuple(row[key] for key in keys) for row in mlp} == {("32", "8", "512", "1024", "32000", "1")}
    (row,) = [row for row in mlp if row["num_tokens"] == "64"]
    breakdown = {each.name: each.total_us for each in model.steps.breakdown(Batch.of((64, 0))).rows}
    (qkv,) = [op.name for op in model.operations if any(use.path.endswith("qkv_proj") for use in op.uses)]
    assert float(row["time_stats.attn_pre_proj.median"]) * 1e3 * LAYERS == pytest.approx(breakdown[qkv])
    decodes = [row for row in attention if row["prefill_chunk_size"] == "0"]
    assert all(row["is_prefill"] == "False" and float(row["time_stats.attn_decode.median"]) > 0 for row in decodes)
    assert all(row["block_size"] == "16" for row in attention)


def test_vidur_has_a_table_of_messages_between_ranks(ranks: SavedModel, tmp_path: Path) -> None:
    paths, _ = write_tables(ranks, tmp_path, LIMITS, block_size=16)
    assert [path.name for path in paths] == ["mlp.csv", "attention.csv", "all_reduce.csv"]
    assert {row["num_tensor_parallel_workers"] for row in rows(tmp_path / "mlp.csv")} == {"2"}
    (row,) = [row for row in rows(tmp_path / "all_reduce.csv") if row["size"] == str(64 * 512 * 2)]
    (reduce,) = [op.name for op in ranks.operations if op.target == "all_reduce"]
    (each,) = [row.each_us for row in ranks.steps.breakdown(Batch.of((64, 0))).rows if row.name == reduce]
    assert float(row["time_stats.all_reduce.median"]) == pytest.approx(each / 1e3)
    assert (row["num_workers"], row["devices_per_node"], row["collective"]) == ("2", "2", "all_reduce")


def test_vidur_has_a_table_of_messages_between_stages(first: SavedModel, tmp_path: Path) -> None:
    paths, _ = write_tables(first, tmp_path, LIMITS, block_size=16)
    assert [path.name for path in paths] == ["mlp.csv", "attention.csv", "send_recv.csv"]
    (found,) = [row for row in rows(paths[-1]) if row["size"] == str(64 * 512 * 2)]
    (both,) = [row.total_us for row in first.steps.breakdown(Batch.of((64, 0))).rows if row.name.startswith("send_")]
    assert float(found["time_stats.send_recv.median"]) == pytest.approx(both / 1e3)
    assert (found["devices_per_node"], found["collective"]) == ("2", "send_recv")


def test_vidur_tables_do_not_depend_on_the_sizes_for_which_the_host_was_measured(
    model: SavedModel, tmp_path: Path
) -> None:
    dispatch = fit_host("host_dispatch", [Observation((("N", n),), None, 10.0 + 5.0 * n) for n in (1, 2, 3)])
    few = replace(model, formulas={**model.formulas, "host_dispatch": dispatch})
    assert few.steps.step_time(Batch.of((64, 0))).extrapolated
    for each, folder in ((model, tmp_path / "usual"), (few, tmp_path / "few")):
        _, outside = write_tables(each, folder, LIMITS, block_size=16)
        assert outside.tokens < 16, "chunks and contexts below those of the measured attention"
    for name in ("mlp.csv", "attention.csv"):
        assert rows(tmp_path / "usual" / name) == rows(tmp_path / "few" / name)


def test_llmservingsim_has_a_folder_for_each_number_of_ranks(
    model: SavedModel, ranks: SavedModel, tmp_path: Path
) -> None:
    for each in (model, ranks):
        folder, _ = write_bundle(each, tmp_path, LIMITS, "H200", "some/model", "llama")
    assert json.loads((folder / "meta.yaml").read_text())["tp_degrees"] == [1, 2]
    alone, shared = (rows(folder / name / "dense.csv") for name in ("tp1", "tp2"))
    assert alone == shared, "what ranks tell each other is in no table"


def test_llmservingsim_decode_steps_add_up(model: SavedModel, tmp_path: Path) -> None:
    folder, _ = write_bundle(model, tmp_path, LIMITS, "H200", "some/model", "llama")
    assert folder == tmp_path / "H200" / "some" / "model" / "bf16"
    meta = json.loads((folder / "meta.yaml").read_text())
    assert meta["tp_degrees"] == [1]
    assert meta["engine_effective"] == {"max_num_batched_tokens": 256, "max_num_seqs": 8}
    dense = {(r["layer"], int(r["tokens"])): float(r["time_us"]) for r in rows(folder / "tp1" / "dense.csv")}
    once = {(r["layer"], int(r["sequences"])): float(r["time_us"]) for r in rows(folder / "tp1" / "per_sequence.csv")}
    pairs = {
        (int(r["n_decode"]), int(r["kv_decode"])): float(r["time_us"])
        for r in rows(folder / "tp1" / "attention.csv")
        if r["prefill_chunk"] == "0"
    }
    layer = ("layernorm", "qkv_proj", "rotary_emb", "o_proj", "layernorm", "gate_up_proj", "act_fn", "down_proj")
    total = LAYERS * (sum(dense[name, 8] for name in layer) + pairs[8, 512])
    total += dense["embedding", 8] + dense["final_layernorm", 8] + once["lm_head", 8] + once["sampler", 8]
    assert total / 1e3 == pytest.approx(total_ms(model, *[(1, 512)] * 8), rel=1e-6)


def test_llmservingsim_has_a_table_of_experts(mixed: SavedModel, tmp_path: Path) -> None:
    folder, _ = write_bundle(mixed, tmp_path, LIMITS, "H200", "some/moe", "mixtral")
    found = rows(folder / "tp1" / "moe.csv")
    assert {int(row["activated_experts"]) for row in found} == {2, 4, 8}
    assert all(int(row["activated_experts"]) <= 2 * int(row["tokens"]) for row in found)
    layers = {row["layer"] for row in rows(folder / "tp1" / "dense.csv")}
    assert not layers & {"gate_up_proj", "act_fn", "down_proj"}


def test_a_fleet_profile_answers_in_seconds(model: SavedModel) -> None:
    profile = FleetProfile(model, total_kv_blks=1024, max_slots=64, chunk=256)
    assert profile.iter_latency(4, 512) == pytest.approx(total_ms(model, *[(1, 511)] * 4) / 1e3)
    mixed = total_ms(model, *[(1, 511)] * 3, (256, 128)) / 1e3
    assert profile.prefill_iter_latency(256, 128, 4, 512) == pytest.approx(mixed)
    assert profile.n_slots(1024) == 16
    assert profile.n_slots(16) == 64
    assert profile.service_time(512, 10, 1024) > 10 * profile.iter_latency(16, 522)
    assert profile.throughput(1024, 512, 10) == pytest.approx(16 / profile.service_time(512, 10, 1024))
    with pytest.raises(PredictError, match="0 KV blocks"):
        FleetProfile(model, total_kv_blks=0)


def test_a_fleet_of_pipeline_stages_is_refused(first: SavedModel) -> None:
    with pytest.raises(PredictError, match="small stages 0: one of several pipeline stages; vllm-sr-sim takes whole"):
        FleetProfile(first, total_kv_blks=1024)
