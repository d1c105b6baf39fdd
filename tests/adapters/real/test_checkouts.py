"""Simulators that run from a checkout: SPLITWISE_SOURCE, LLMSERVINGSIM_SOURCE, and BLIS_SOURCE with ``blis`` built."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dooly.adapters.blis import command, write_blis
from dooly.adapters.grid import Limits
from dooly.adapters.llmservingsim import write_bundle
from dooly.adapters.splitwise import write_csv
from dooly.batch import Batch
from dooly.predict import SavedModel
from tests.adapters.conftest import CONFIG, LAYERS

LIMITS = Limits(tokens=4096, requests=16, context=1024)


def checkout(name: str) -> str:
    path = os.environ.get(name, "")
    if not path:
        pytest.skip(f"{name} is not set")
    return path


def seconds(model: SavedModel, *requests: tuple[int, int]) -> float:
    return model.steps.step_time(Batch.of(*requests)).total_us * 1e-6


def done(command: list[str], folder: Path) -> str:
    run = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=300)
    assert run.returncode == 0, run.stderr[-2000:]
    return run.stdout


@pytest.mark.parametrize("kind", ["model", "ranks"])
def test_splitwise_serves_its_trace(kind: str, tmp_path: Path, request) -> None:
    model: SavedModel = request.getfixturevalue(kind)
    source = tmp_path / "splitwise"
    shutil.copytree(checkout("SPLITWISE_SOURCE"), source)
    config = source / "configs" / "config.yaml"  # its launcher of sweeps over a cluster wants ray; one run does not
    text = config.read_text().replace("  - override hydra/launcher: ray\n", "")
    config.write_text(text[: text.index("  launcher:")])
    write_csv(model, source / "data" / "perf_model.csv", LIMITS, "h100-80gb", "llama2-70b")
    done(
        [
            *(sys.executable, "run.py", "cluster=half_half", "cluster.servers.0.count=0", "cluster.servers.1.count=1"),
            *(
                "applications.0.scheduler=token_jsq",
                "applications.0.model_architecture=llama2-70b",
                "applications.0.model_size=llama2-70b-fp16",
                "start_state=baseline",
                "performance_model=db",
            ),
            *(f"start_state.instance.tensor_parallelism={model.tensor_parallel}", "debug=True"),
            *("trace.filename=test_trace", "seed=0", f"output_dir={tmp_path / 'results'}"),
        ],
        source,
    )
    with (source / "traces" / "test_trace.csv").open() as file:
        asked = list(csv.DictReader(file))
    with (tmp_path / "results" / "detailed" / "0.csv").open() as file:
        served = list(csv.DictReader(file))
    assert len(served) == len(asked)
    for row, wanted in zip(served, asked, strict=True):
        prompt, tokens = int(wanted["prompt_size"]), int(wanted["token_size"])
        first, each = seconds(model, (prompt, 0)), seconds(model, (1, 1023))
        assert float(row["ttft_times"]) == pytest.approx(first, rel=1e-3)
        assert float(row["response_times"]) == pytest.approx(first + (tokens - 1) * each, rel=1e-3)


@pytest.mark.parametrize("kind", ["model", "mixed", "ranks"])
def test_llmservingsim_looks_steps_up(kind: str, tmp_path: Path, request, monkeypatch) -> None:
    model: SavedModel = request.getfixturevalue(kind)
    source, root = checkout("LLMSERVINGSIM_SOURCE"), tmp_path / "checkout"
    shutil.copytree(Path(source) / "profiler" / "models", root / "profiler" / "models")
    shutil.copytree(Path(source) / "serving", root / "serving")
    family = "mixtral" if kind == "mixed" else "llama"
    write_bundle(model, root / "profiler" / "perf", LIMITS, "H200", "some/model", family)
    script = f"""
import json
from serving.core import trace_generator as t
db = t._load_perf_db("H200", "some/model", "bf16", {{{model.tensor_parallel}}}, "{family}")
tables = t._tp_tables(db, {model.tensor_parallel})
names = ["qkv_proj", "o_proj", "layernorm", "rotary_emb", "final_layernorm"]
found = {{name: t._lookup_dense(db, name, {model.tensor_parallel}, 8) for name in names}}
found["lm_head"] = t._lookup_per_sequence(db, "lm_head", {model.tensor_parallel}, 8)
found["attention"] = t._attn_slice_lookup(tables["attention"], 0, 8, 0, 512)
found["moe"] = "moe" in tables
print(json.dumps(found))
"""
    monkeypatch.setenv("PYTHONPATH", str(root))
    found = json.loads(done([sys.executable, "-c", script], root / "serving").splitlines()[-1])
    rows = {row.name: row for row in model.steps.breakdown(Batch.of(*[(1, 512)] * 8)).rows}
    by_module = {use.path.split(".")[-1]: rows[op.name] for op in model.operations for use in op.uses}
    assert found["attention"] == pytest.approx(1e3 * by_module["attn"].each_us, abs=1), "whole nanoseconds"
    for layer in ("qkv_proj", "o_proj"):
        assert found[layer] == pytest.approx(1e3 * rows[_linear(model, layer)].each_us, abs=1)
    assert found["moe"] == (kind == "mixed")


def _linear(model: SavedModel, module: str) -> str:
    """Name of the projection of that module."""
    (name,) = {
        op.name for op in model.operations for use in op.uses if op.target == "linear" and use.path.endswith(module)
    }
    return name


@pytest.mark.parametrize("kind", ["model", "mixed", "ranks"])
def test_blis_follows_step_times_as_far_as_its_coefficients_do(kind: str, tmp_path: Path, request) -> None:
    model: SavedModel = request.getfixturevalue(kind)
    source = Path(checkout("BLIS_SOURCE"))
    _, projection = write_blis(model, tmp_path, Limits(512, 16, 2048), "H200")
    config = {
        "architectures": ["MixtralForCausalLM" if kind == "mixed" else "LlamaForCausalLM"],
        "hidden_size": CONFIG["H"],
        "intermediate_size": CONFIG["I"],
        "num_attention_heads": CONFIG["Nq"],
        "num_key_value_heads": CONFIG["Nkv"],
        "num_hidden_layers": LAYERS,
        "vocab_size": CONFIG["V"],
        "max_position_embeddings": CONFIG["Np"],
        "torch_dtype": "bfloat16",
        "hidden_act": "silu",
        **({"num_local_experts": 8, "num_experts_per_tok": 2} if kind == "mixed" else {}),
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    lengths = {"prompt": 256, "output": 16}
    sizes = [f"--{name}-tokens{end}={n}" for name, n in lengths.items() for end in ("", "-min", "-max")]
    sizes += [f"--{name}-tokens-stdev=0" for name in lengths]
    out = done(
        [
            *(str(source / "blis"), "run", "--model", "some/model", "--model-config-folder", str(tmp_path)),
            *command(model, tmp_path, "H200").split(),
            *sizes,
            *("--num-requests=5", "--rate=1", "--total-kv-blocks=10000"),
        ],
        source,
    )
    report = json.loads(out[out.index("{") : out.rindex("}") + 1])
    assert report["completed_requests"] == 5
    within = abs(projection.worst_error) + 0.005
    assert report["itl_mean_ms"] == pytest.approx(1e3 * seconds(model, (1, 264)), rel=within)
    first = 1e3 * (seconds(model, (256, 0)) + seconds(model, (1, 256)))
    assert report["ttft_mean_ms"] <= first * (1 + within)
