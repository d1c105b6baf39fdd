"""Notebooks run top to bottom without a warning, and the text they start from is what capture gives today."""

from pathlib import Path

import nbformat
import pytest

from scripts.run_notebooks import run_notebook

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore::DeprecationWarning:jupyter_client.*")
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # sockets of the kernel that has just stopped
def test_a_notebook_runs_and_its_stored_outputs_are_current(path: Path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    ran, stored = run_notebook(path), nbformat.read(path, as_version=4)
    for fresh, old in zip(ran.cells, stored.cells, strict=True):
        if fresh.cell_type == "code":
            assert [output for output in fresh.outputs if output.get("name") == "stderr"] == []
            assert texts(fresh) == texts(old), f"run `make notebooks`: {fresh.source}"


def texts(cell) -> list[str]:
    return [output.get("text") or output["data"]["text/plain"] for output in cell.outputs]


@pytest.mark.engine
def test_the_stored_ir_is_what_capture_gives():
    from dooly.ir import Program, read_program
    from dooly.passes import PIPELINE, run, select
    from tests.captures import captured

    fresh = run(Program((captured("llama-3.1-8b"),)), select("annotate-shapes"))
    assert str(fresh) == (ROOT / "notebooks" / "llama-3.1-8b.ir").read_text(), "run `make notebooks`"
    stored = read_program(ROOT / "notebooks" / "families.ir")
    for model in ("llama-3.1-8b", "mixtral-8x7b"):
        assert run(Program((captured(model),)), PIPELINE).operations == stored.for_model(model), "run `make notebooks`"
