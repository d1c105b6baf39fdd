"""From a config.json to simulated latencies and the real engine, through the command line, on a very small model."""

import csv
import json
from pathlib import Path

import pytest

import dooly
from dooly.cli import main
from dooly.executor import Ranges
from dooly.hardware.machine import machine
from dooly.passes.__main__ import main as passes
from dooly.workspace.store import open_database, records_of

pytestmark = pytest.mark.engine

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "num_hidden_layers": 2,
    "vocab_size": 512,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-5,
    "torch_dtype": "float32",
    "tie_word_embeddings": False,
}
LIMITS = ("--max-tokens", "64", "--max-requests", "4", "--max-context", "256")
SETTINGS = ("--max-num-seqs", "4", "--max-num-batched-tokens", "64", "--max-model-len", "256")
TRACE = "arrival_s,prompt_tokens,output_tokens\n0.0,40,6\n0.05,90,1\n0.1,8,12\n0.1,300,9\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model, a trace and a database in which the model is measured and fitted."""
    folder = tmp_path_factory.mktemp("chain")
    (folder / "small").mkdir()
    (folder / "small" / "config.json").write_text(json.dumps(CONFIG))
    (folder / "trace.csv").write_text(TRACE)
    database = str(folder / "latency.sqlite")
    assert main(["profile", str(folder / "small"), "--budget", "240", "--db", database, *LIMITS]) == 0
    assert main(["fit", "--db", database]) == 0
    return folder


def run(capsys, folder: Path, *arguments: str):
    """The JSON document that a command prints."""
    capsys.readouterr()
    assert main([*arguments, "--db", str(folder / "latency.sqlite"), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_what_was_measured_is_covered(folder, capsys):
    rows = run(capsys, folder, "coverage", str(folder / "small"), *LIMITS)["operations"]
    assert {row["status"] for row in rows} == {"covered"}
    assert sum(row["share_percent"] for row in rows) == pytest.approx(100)


def test_a_second_run_measures_nothing_and_says_what_reuse_saved(folder, capsys):
    answer = run(capsys, folder, "profile", str(folder / "small"), "--budget", "60", *LIMITS)
    assert answer["outcome"]["taken"] == answer["outcome"]["host_points"] == 0
    assert answer["saved_s"] > 0


def test_python_fits_what_was_measured_and_measures_nothing_twice(folder):
    points = str(folder / "points.sqlite")
    with open_database(points, create=True) as database:
        database.add_records(records_of(str(folder / "latency.sqlite")))
    found = dooly.profile(str(folder / "small"), budget_s=60, ranges=Ranges(64, 4, 256), db=points)
    assert (found.outcome.taken, found.outcome.host_points, found.plan.points_missing) == (0, 0, 0)
    assert found.lacking == ()
    assert {row.operation.name for row in found.plan.rows} <= set(found.frame()["name"])
    assert found.frame()["points"].to_list() == [formula.held.points for formula in found.formulas]
    with pytest.raises(dooly.DoolyError, match="budget_s is 0"):
        dooly.profile("tiny-llama", budget_s=0)


def test_another_model_measures_only_what_it_does_not_share(folder, capsys):
    other = folder / "wider"
    other.mkdir(exist_ok=True)
    (other / "config.json").write_text(json.dumps(CONFIG | {"intermediate_size": 320}))
    answer = run(capsys, folder, "plan", str(other), *LIMITS)
    missing = {row["kind"] for row in answer["operations"] if row["status"] == "uncovered"}
    covered = {row["kind"] for row in answer["operations"] if row["status"] == "covered"}
    assert "gemm" in missing & covered
    assert "attention" in covered
    assert not answer["host_missing"]


def test_a_pipeline_stage_becomes_tables_with_what_it_hands_on(folder, capsys):
    if machine().devices < 2:
        pytest.skip("two ranks need two devices: processors for OMP_NUM_THREADS threads each")
    stages = str(folder / "stages.ir")
    assert passes([str(folder / "small"), "--pp", "2", "-o", stages]) == 0
    answer = run(capsys, folder, "profile", stages, "--budget", "240", *LIMITS)
    measured = {row["operation"].partition("_")[0] for row in answer["plan"] if row["missing_points"]}
    assert measured >= {"send", "recv"}
    assert measured.isdisjoint({"linear", "attention"}), "shared with the whole model"
    assert main(["fit", "--db", str(folder / "latency.sqlite")]) == 0
    for name, options in (("whole", ()), ("first", ("--stage", "0/2"))):
        command = ["export", "vidur", str(folder / "small"), "-o", str(folder / name), *options, *LIMITS]
        assert main([*command, "--db", str(folder / "latency.sqlite")]) == 0
    whole, first, sent = (
        list(csv.DictReader((folder / name).read_text().splitlines()))
        for name in ("whole/mlp.csv", "first/mlp.csv", "first/send_recv.csv")
    )
    for projection in ("attn_pre_proj", "mlp_down_proj"):
        column = f"time_stats.{projection}.median"
        of_layer = [float(row[column]) for row in whole]
        assert [float(row[column]) for row in first] == pytest.approx(of_layer), "whatever the number of layers"
    assert not (folder / "whole" / "send_recv.csv").exists()
    assert [int(row["size"]) for row in sent] == [2 * CONFIG["hidden_size"] * int(row["num_tokens"]) for row in first]
    assert all(0 < float(row["time_stats.send_recv.median"]) < 1000 for row in sent)


def test_a_step_is_predicted_and_its_parts_add_up(folder, capsys):
    answer = run(capsys, folder, "predict", str(folder / "small"), "--batch", "40:0,1:50x3")
    cost = answer["cost"]
    assert cost["total_us"] == cost["host_before_us"] + cost["device_us"] + cost["host_after_us"]
    assert cost["total_us"] == pytest.approx(sum(row["total_us"] for row in answer["rows"]))
    assert not cost["extrapolated"]


def test_an_ir_file_predicts_as_the_model_does(folder, capsys):
    from dooly.passes.__main__ import main as passes

    ir = str(folder / "small.ir")
    assert passes([str(folder / "small"), "-p", "annotate-shapes", "-o", ir]) == 0
    batch = ("--batch", "7:9")
    assert run(capsys, folder, "predict", ir, *batch) == run(capsys, folder, "predict", str(folder / "small"), *batch)


def test_a_trace_is_simulated_and_the_run_can_be_kept(folder, capsys):
    kept = folder / "run.json"
    arguments = ("simulate", str(folder / "small"), str(folder / "trace.csv"), *SETTINGS)
    answer = run(capsys, folder, *arguments, "-o", str(kept))
    assert answer["requests"] == 4
    assert answer["clipped"] == 1
    assert answer["ttft"]["p50_ms"] > 0
    assert len(json.loads(kept.read_text())["requests"]) == 4
    assert run(capsys, folder, *arguments)["e2e"] == answer["e2e"]


@pytest.mark.parametrize(
    "mode",
    [(), ("--async-scheduling",), ("--enable-prefix-caching", "--num-gpu-blocks-override", "12", "--async-scheduling")],
)
def test_the_fast_mode_answers_as_the_engines_scheduler_does(folder, capsys, mode):
    arguments = ("simulate", str(folder / "small"), "mooncake", "--requests", "30", "--rate", "50", *SETTINGS, *mode)
    engine = run(capsys, folder, *arguments, "--arrivals", "poisson", "--no-fast")
    table = folder / "requests.parquet"
    fast = run(capsys, folder, *arguments, "--arrivals", "poisson", "--fast", "-o", str(table))
    assert (fast["steps"], fast["preemptions"]) == (engine["steps"], engine["preemptions"])
    assert fast["e2e"]["p90_ms"] == pytest.approx(engine["e2e"]["p90_ms"], rel=1e-3)
    assert table.stat().st_size > 0


def test_blocks_can_be_derived_from_the_memory(folder, capsys):
    arguments = ("simulate", str(folder / "small"), str(folder / "trace.csv"), *SETTINGS, "--fast")
    roomy = run(capsys, folder, *arguments, "--gpu-memory-utilization", "1", "--memory-other", "0")
    assert roomy["e2e"] == run(capsys, folder, *arguments)["e2e"]
    assert main([*arguments, "--gpu-memory-utilization", "0.001", "--db", str(folder / "latency.sqlite")]) == 2
    assert "leaves no KV cache" in capsys.readouterr().err


def test_prediction_stands_beside_the_real_engine(folder, capsys):
    answer = run(
        capsys, folder, "validate", str(folder / "small"), str(folder / "trace.csv"), "--repeats", "2", *SETTINGS
    )
    assert answer["runs"] == 2
    assert {request["metric"] for request in answer["requests"]} == {"ttft", "tpot", "e2e"}
    assert all(step["count"] > 0 and step["measured_us"] > 0 and step["predicted_us"] > 0 for step in answer["steps"])


def test_shares_of_time_come_from_formulas_where_there_are_all(folder, capsys):
    from dooly.passes.__main__ import main as passes

    ir, twin = folder / "shared.ir", folder / "twin.ir"
    assert passes([str(folder / "small"), "-p", "annotate-shapes", "-o", str(ir)]) == 0
    twin.write_text(ir.read_text().replace('graph "small"', 'graph "twin"'))
    answer = run(capsys, folder, "coverage", str(ir), str(twin), *LIMITS)
    assert (answer["time_from"], answer["operations_without_formula"]) == ("formulas", 0)
    assert [row["time_shared_percent"] for row in answer["models"]] == pytest.approx([100.0, 100.0])


def test_tables_for_people(folder, capsys):
    database = ("--db", str(folder / "latency.sqlite"))
    for arguments, words in (
        (("plan", str(folder / "small"), *LIMITS), "cost (s)"),
        (("predict", str(folder / "small"), "--batch", "1:9"), "total (us)"),
        (("simulate", str(folder / "small"), str(folder / "trace.csv"), *SETTINGS), "p99 (ms)"),
    ):
        assert main([*arguments, *database]) == 0
        assert words in capsys.readouterr().out
