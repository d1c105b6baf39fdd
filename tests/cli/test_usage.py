"""Help, usage errors and bad input: one line each, exit status 2, never a traceback."""

import subprocess
import sys
from pathlib import Path

import pytest

from dooly import __version__
from dooly.cli import main
from dooly.database import Database

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = (
    "coverage",
    "plan",
    "profile",
    "fit",
    "formulas",
    "predict",
    "simulate",
    "bench",
    "validate",
    "explore",
    "ledger",
    "kernels",
    "db diff",
    "db info",
    "db environments",
)


def told(capsys, *arguments: str) -> str:
    """The one line that a refused command prints."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert lines[-1].startswith("dooly: error: ")
    assert "Traceback" not in captured.err
    return lines[-1].removeprefix("dooly: error: ")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example_of_this_command(command: str, capsys):
    assert main([*command.split(), "--help"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert f"Example: dooly {command}" in printed


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_can_answer_a_program(command: str, capsys):
    main([*command.split(), "--help"])
    assert "--json" in capsys.readouterr().out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"dooly {__version__}\n"


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from dooly.cli import main; main(['--help']); "
        "sys.stderr.write(repr({'torch', 'vllm', 'sympy', 'polars', 'sqlalchemy', 'networkx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == "set()"


def test_no_command_prints_the_help(capsys):
    main([])
    captured = capsys.readouterr()
    assert "coverage" in captured.out + captured.err


def test_wrong_usage_is_one_line(capsys):
    assert "--speed" in told(capsys, "predict", "tiny-llama", "--speed")
    assert "frobnicate" in told(capsys, "frobnicate")
    assert "batch" in told(capsys, "predict", "tiny-llama")
    assert "'--budget': Input should be a valid number" in told(capsys, "profile", "tiny-llama", "--budget", "soon")


def test_a_budget_of_zero(capsys):
    assert told(capsys, "profile", "tiny-llama", "--budget", "0") == "--budget is 0 s, expected more than 0"


@pytest.mark.parametrize("batch", ["", "1", "1:2:3", "a:b", "1:2x", "128:0,,1:2", "-1:0"])
def test_a_batch_that_is_none(batch: str, capsys):
    assert "expected NEW:CACHED" in told(capsys, "predict", "tiny-llama", f"--batch={batch}")


def test_a_batch_without_new_tokens(capsys):
    assert "expected new >= 1" in told(capsys, "predict", "tiny-llama", "--batch", "0:5")


def test_a_missing_database(tmp_path, capsys):
    place = tmp_path / "none.sqlite"
    for command in (["fit"], ["formulas"], ["db", "info"]):
        assert told(capsys, *command, "--db", str(place)) == f"{place}: no such database; `dooly profile` creates one"
    assert not place.exists()


def test_a_foreign_database(tmp_path, capsys):
    place = tmp_path / "notes.txt"
    place.write_text("not a database, but long enough to be taken for one\n" * 40)
    assert "not an SQLite database" in told(capsys, "fit", "--db", str(place))


def test_the_database_may_be_named_by_the_environment(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("DOOLY_DB", str(tmp_path / "elsewhere.sqlite"))
    assert "elsewhere.sqlite" in told(capsys, "fit")


def test_engine_settings_that_contradict_each_other(capsys):
    message = told(capsys, "simulate", "tiny-llama", "--max-num-seqs", "64", "--max-num-batched-tokens", "8")
    assert "raise one or lower the other" in message


def test_arrivals_without_a_rate(capsys):
    assert "needs --rate" in told(capsys, "simulate", "tiny-llama", "azure-conv", "--arrivals", "poisson")
    assert "have no rate" in told(capsys, "simulate", "tiny-llama", "arxiv", "--rate", "2")
    assert "'sometimes' is not one of" in told(capsys, "simulate", "tiny-llama", "arxiv", "--arrivals", "sometimes")
    assert "--requests is 0" in told(capsys, "simulate", "tiny-llama", "--requests", "0")


def test_bad_traces(tmp_path, capsys):
    empty, wrong = tmp_path / "empty.csv", tmp_path / "wrong.csv"
    empty.write_text("")
    wrong.write_text("arrival_s,prompt_tokens,output_tokens\n0.0,12,zero\n")
    assert "the file is empty" in told(capsys, "simulate", "tiny-llama", str(empty))
    assert "wrong.csv:2: output_tokens: 'zero' is not a whole number" in told(
        capsys, "simulate", "tiny-llama", str(wrong)
    )
    assert "No such file" in told(capsys, "simulate", "tiny-llama", str(tmp_path / "none.csv"))


def test_an_unknown_model(tmp_path, capsys):
    place = str(tmp_path / "new.sqlite")
    Database(place).close()
    for command in (["plan", "lama-3"], ["predict", "lama-3", "--batch", "1:2"], ["simulate", "lama-3"]):
        assert "neither a bundled model nor a file" in told(capsys, *command, "--db", place)


def test_settings_that_no_engine_takes(tmp_path, capsys):
    place = ("--db", str(tmp_path / "new.sqlite"))
    assert "size 3 does not divide num_attention_heads 8" in told(capsys, "plan", "tiny-llama", "--tp", "3", *place)
    assert "NO_SUCH" in told(capsys, "plan", "tiny-llama", "--backend", "NO_SUCH", *place)
    assert not (tmp_path / "new.sqlite").exists()


def test_an_ir_file_that_is_none(tmp_path, capsys):
    place, binary = str(tmp_path / "new.sqlite"), tmp_path / "binary.ir"
    binary.write_bytes(b"\xff\xfe")
    assert "not UTF-8 text" in told(capsys, "plan", str(binary), "--db", place)
    assert "No such file" in told(capsys, "plan", str(tmp_path / "none.ir"), "--db", place)


@pytest.fixture
def layer(tmp_path) -> str:
    """Half of a layer, captured for an H100 on one of two ranks."""
    said = 'settings backend = "FLASH_ATTN", mode = "compiled", platform = "h100"'
    path = tmp_path / "layer.ir"
    path.write_text((ROOT / "docs" / "mlp.ir").read_text().replace("captured 7", f"{said}\n  captured 7"))
    return str(path)


BESIDE_IR = {
    "coverage": ("--tp 4", "--backend TRITON_ATTN", "--platform h200"),
    "plan": ("--tp 4", "--backend TRITON_ATTN", "--eager"),
    "profile": ("--tp 4", "--backend TRITON_ATTN", "--eager"),
    "predict --batch 1:2": ("--backend TRITON_ATTN", "--platform h200"),
    "export steps -o x": ("--tp 4", "--backend TRITON_ATTN", "--platform h200", "--stage 0/2"),
}


@pytest.mark.parametrize(("command", "option"), [(each, option) for each in BESIDE_IR for option in BESIDE_IR[each]])
def test_an_option_that_contradicts_ir(command: str, option: str, layer: str, tmp_path, capsys):
    place = tmp_path / "new.sqlite"
    if option != "--platform h200":  # of which measurements ship, for want of a database
        Database(place).close()
    line = told(capsys, *command.split(), layer, *option.split(), "--db", str(place))
    name = option.split()[0]
    also_measured = {"--platform": "platform h100, not h200", "--eager": "mode compiled, not eager"}
    if name in also_measured:
        assert line == f"{layer}: captured with {also_measured[name]}; capture the model again"
    else:
        assert line == f"{name} is for models that are captured; IR is read as it is: leave it out"


def test_options_that_ir_agrees_with(layer: str, tmp_path):
    agreed = ("--tp", "2", "--backend", "FLASH_ATTN", "--platform", "h100", "--db", str(tmp_path / "none.sqlite"))
    assert main(["coverage", layer, *agreed]) == 0


def test_a_reader_that_goes_away_is_no_error():
    command = f"{sys.executable} -m dooly.cli --help | head -n 1"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True)
    assert done.stdout.startswith("Usage: dooly")
    assert "Traceback" not in done.stderr
