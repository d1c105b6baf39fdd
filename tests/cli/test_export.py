"""``dooly export``: each target writes its files and says so; wrong use is one line."""

import json
from pathlib import Path

import pytest

from dooly.adapters.vidur import __main__ as vidur
from dooly.cli import main
from dooly.ir.program import Program
from dooly.predict import SavedModel
from tests.adapters.conftest import dense, saved, shared, stage

TARGETS = {
    "steps": ((), ("file",), ("one JSON file",)),
    "vidur": ((), ("file/mlp.csv", "file/attention.csv"), ("0.0.26", "mlp.csv", " ms ")),
    "dynamo": ((), ("file",), ("1.2.1", "NPZ", " ms")),
    "llmservingsim": (
        ("--hardware", "H200", "--name", "some/model"),
        ("file/H200/some/model/bf16/meta.yaml", "file/H200/some/model/bf16/tp1/dense.csv"),
        ("v1.1.0", "dense.csv", " us "),
    ),
    "aiconfigurator": (
        ("--system", "h200_sxm"),
        ("file/data/h200_sxm/gemm/vllm/0.26.0/gemm_perf.parquet",),
        ("0.12.0", "gemm_perf", " ms"),
    ),
    "splitwise": (
        ("--hardware", "h100-80gb", "--name", "llama2-70b"),
        ("file",),
        ("8f99e7d", "perf_model.csv", " ms"),
    ),
    "xpyd": ((), ("file",), ("0.5.0", "profile", " ms")),
    "distserve": ((), ("file",), ("82831f1", "JSON", " ms")),
    "blis": (
        ("--hardware", "H200"),
        ("file/hardware_config.json", "file/coefficients.json"),
        ("v0.7.9", "coefficients.json", " us"),
    ),
}
"""Options that the target needs; what it writes; what its help names: version, files, units."""

needed = pytest.mark.parametrize("target", TARGETS)


@pytest.fixture(scope="module")
def small() -> SavedModel:
    return saved("small", dense("small"))


@pytest.fixture
def steps(small: SavedModel, tmp_path: Path) -> str:
    small.save(tmp_path / "small.json")
    return str(tmp_path / "small.json")


def run(capsys, *arguments: str) -> tuple[int, str]:
    """Exit status and talk, white space made alike."""
    status = main(["export", *arguments])
    return status, " ".join(capsys.readouterr().err.split())


@needed
def test_a_target_writes_its_files_and_says_so(target: str, steps: str, tmp_path: Path, capsys) -> None:
    options, files, _ = TARGETS[target]
    status, talk = run(capsys, target, steps, "-o", str(tmp_path / "file"), *options)
    assert status == 0
    assert all((tmp_path / file).stat().st_size > 0 for file in files)
    assert f"wrote {tmp_path / 'file'}" in talk
    projected = target in ("xpyd", "distserve", "blis")
    assert ("% mean" in talk) == projected


@needed
def test_help_names_version_files_and_units(target: str, capsys) -> None:
    assert main(["export", target, "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert all(word in text for word in TARGETS[target][2])
    assert f"dooly export {target} " in text


def test_the_data_sheet_that_is_missing_is_asked_for(steps: str, tmp_path: Path, capsys) -> None:
    command = ("aiconfigurator", steps, "-o", str(tmp_path), "--system", "h200_sxm")
    assert f"{tmp_path}/h200_sxm.yaml is not there yet: copy AIConfigurator's" in run(capsys, *command)[1]
    (tmp_path / "h200_sxm.yaml").write_text("data_dir: data/h200_sxm\n")
    assert "not there yet" not in run(capsys, *command)[1]


def test_steps_outside_of_the_measured_sizes_say_what_to_measure(steps: str, tmp_path: Path, capsys) -> None:
    sizes = ("--max-tokens", "65536", "--max-requests", "4", "--max-context", "1024")
    status, talk = run(capsys, "dynamo", steps, "-o", str(tmp_path / "file"), *sizes)
    assert status == 0
    assert "lay outside the sizes that were measured" in talk
    assert "`dooly profile small --max-tokens" in talk


def one_line(capsys, *arguments: str) -> str:
    """What is said when the command fails, which must be one line with exit status 2."""
    assert main(["export", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith("dooly: error: ")
    return line.removeprefix("dooly: error: ")


def table(tmp_path: Path, operations) -> str:
    path = tmp_path / "model.ir"
    path.write_text(str(Program((), tuple(operations))))
    return str(path)


def test_a_model_that_the_database_does_not_know(tmp_path: Path, capsys) -> None:
    unknown = table(tmp_path, dense("unknown"))
    line = one_line(capsys, "dynamo", unknown, "-o", "x", "--platform", "h200", "--db", str(tmp_path / "no.sqlite"))
    assert line.startswith("unknown: no formula of ")
    assert line.endswith("`dooly profile unknown` measures it on NVIDIA H200, `dooly fit` fits what is there")


def test_ranks_without_measured_collectives(tmp_path: Path, capsys) -> None:
    spread = table(tmp_path, shared("spread"))
    line = one_line(capsys, "vidur", spread, "-o", "x", "--platform", "h200", "--db", str(tmp_path / "no.sqlite"))
    assert line.startswith("spread: no formula of ")
    assert "all_reduce" in line or "all_gather" in line
    assert "over 2 ranks" in line


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> str:
    """The first of two pipeline stages."""
    path = tmp_path_factory.mktemp("stage") / "first.json"
    saved("small stages 0", stage("small stages 0"), PP=2).save(path)
    return str(path)


PER_OPERATION = {"steps": "file", "vidur": "file/send_recv.csv", "aiconfigurator": "file/data/h200_sxm/gemm"}
"""Targets that are right for a pipeline stage, too; all others speak of the steps of a whole model."""


@pytest.mark.parametrize("target", PER_OPERATION)
def test_a_stage_has_tables_of_its_operations(target: str, first: str, tmp_path: Path, capsys) -> None:
    status, talk = run(capsys, target, first, "-o", str(tmp_path / "file"), *TARGETS[target][0])
    assert status == 0
    assert (tmp_path / PER_OPERATION[target]).exists()
    assert "`dooly profile small" not in talk, "it is measured with the other stages"


@pytest.mark.parametrize("target", [target for target in TARGETS if target not in PER_OPERATION])
def test_a_stage_is_not_taken_for_a_model(target: str, first: str, tmp_path: Path, capsys) -> None:
    line = one_line(capsys, target, first, "-o", str(tmp_path / "file"), *TARGETS[target][0])
    assert line.startswith("small stages 0: one of several pipeline stages; ")
    assert not list(tmp_path.iterdir())


def test_neither_vidur_nor_a_sweep_takes_a_stage_for_a_model(first: str, capsys) -> None:
    assert vidur.main([first]) == 2
    assert "one of several pipeline stages; Vidur on dooly's step times takes whole" in capsys.readouterr().err
    assert main(["explore", first]) == 2
    assert "one of several pipeline stages; dooly explore takes whole models" in capsys.readouterr().err


def test_a_stage_that_was_not_measured(tmp_path: Path, capsys) -> None:
    unknown = table(tmp_path, stage("unknown"))
    line = one_line(capsys, "steps", unknown, "-o", "x", "--platform", "h200", "--db", str(tmp_path / "no.sqlite"))
    assert "between stages; `python -m dooly.passes MODEL --pp N -o stages.ir && dooly profile stages.ir`" in line


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ("0", "--stage 0: expected K/N"),
        ("first", "--stage first: expected K/N"),
        ("-1/2", "--stage -1/2: expected K/N"),
        ("2/2", "--stage 2/2: expected K/N"),
        ("0/0", "--stage 0/0: expected K/N"),
        ("0/5", "tiny-llama: 5 pipeline stages for 4 layers"),
    ],
)
def test_stages_that_a_model_does_not_have(stage: str, message: str, tmp_path: Path, capsys) -> None:
    place = ("--platform", "h200", "--db", str(tmp_path / "no.sqlite"))
    assert message in one_line(capsys, "vidur", "tiny-llama", "-o", "x", "--stage", stage, *place)


def test_a_stage_of_a_file_of_ir(tmp_path: Path, capsys) -> None:
    place = ("--platform", "h200", "--db", str(tmp_path / "no.sqlite"))
    path = table(tmp_path, dense("small"))
    line = one_line(capsys, "vidur", path, "-o", "x", "--stage", "0/2", *place)
    assert line == "--stage is for models that are captured; IR is read as it is: leave it out"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("dynamo", "STEPS", "-o", "x", "--platform", "h200"), "--platform belongs to `dooly export steps`"),
        (("dynamo", "STEPS", "-o", "x", "--tp", "2"), "--tp belongs to `dooly export steps`"),
        (("dynamo", "STEPS", "-o", "x", "--stage", "0/2"), "--stage belongs to `dooly export steps`"),
        (("dynamo", "none.json", "-o", "x"), "No such file"),
        (("dynamo", "STEPS", "-o", "x", "--max-requests", "0"), "tables up to 512 tokens, 0 requests"),
        (("vidur", "STEPS"), "Missing option"),
        (("dynamo", "no-such-model", "-o", "x", "--platform", "h200"), "no-such-model"),
    ],
)
def test_wrong_use(arguments: tuple[str, ...], message: str, steps: str, capsys) -> None:
    assert message in one_line(capsys, *(steps if each == "STEPS" else each for each in arguments))


VIDUR = {
    "not installed": ({}, "Vidur cannot be imported"),
    "an empty package": ({"config": ""}, "none that dooly knows"),
    "other interfaces": (
        {"config": "", "types": "", "execution_time_predictor": "", "entities": "class ExecutionTime: pass"},
        "none that dooly knows (ExecutionTime() takes no arguments)",
    ),
    "another sum": (
        {
            "config": "",
            "types": "",
            "execution_time_predictor": "",
            "entities": "class ExecutionTime:\n    def __init__(self, *fields): self.total_time = sum(fields)",
        },
        "none that dooly knows (its ExecutionTime adds up other fields)",
    ),
}


@pytest.mark.parametrize("case", VIDUR)
def test_a_vidur_of_another_version(case: str, steps: str, tmp_path: Path, capsys, monkeypatch) -> None:
    modules, message = VIDUR[case]
    for name in ("vidur", *(f"vidur.{each}" for each in ("config", "types", "execution_time_predictor", "entities"))):
        monkeypatch.delitem(__import__("sys").modules, name, raising=False)
    if modules:
        (tmp_path / "vidur").mkdir()
        for name, text in {"__init__": "", **modules}.items():
            (tmp_path / "vidur" / f"{name}.py").write_text(text)
        monkeypatch.syspath_prepend(str(tmp_path))
    assert vidur.main([steps]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert "vidur 0.0.26 or" in line or "vidur==0.0.26" in line


def test_vidur_without_step_times_shows_its_usage(capsys) -> None:
    assert vidur.main([]) == 2
    assert "usage: python -m dooly.adapters.vidur STEPS.json" in capsys.readouterr().out


def test_a_file_of_another_kind_is_no_step_times(tmp_path: Path, capsys) -> None:
    (tmp_path / "other.json").write_text(json.dumps({"format": 99}))
    assert vidur.main([str(tmp_path / "other.json")]) == 2
    assert "write it again with `dooly export steps`" in capsys.readouterr().err
