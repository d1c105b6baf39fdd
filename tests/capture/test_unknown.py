"""A custom operation that nothing here knows, planted in the engine's code, is kept, counted and reported."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dooly.capture import capture
from dooly.cli import main as dooly
from dooly.ir import Graph, Kind, Program
from dooly.passes import PIPELINE, run
from dooly.passes.__main__ import main

pytestmark = pytest.mark.engine


@pytest.fixture(autouse=True)
def planted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Every activation of a decoder runs ``planted::mystery`` on what it returns; captures of others are not reused."""
    monkeypatch.setattr("dooly.workspace.captures.CACHE", tmp_path / "captures")
    from vllm.model_executor.layers.activation import SiluAndMul

    library = torch.library.Library("planted", "DEF")
    library.define("mystery(Tensor x, int width, str layer_name) -> Tensor")
    library.impl("mystery", lambda x, *_: torch.empty_like(x), "Meta")
    right = SiluAndMul.forward_native

    def forward(x: torch.Tensor) -> torch.Tensor:
        result = right(x)
        return torch.ops.planted.mystery(result, result.shape[-1], "some.layer")

    monkeypatch.setattr(SiluAndMul, "forward_native", staticmethod(forward))
    yield
    library._destroy()  # pyright: ignore[reportPrivateUsage]


def test_it_is_an_operation_of_its_own_with_symbolic_sizes() -> None:
    program = run(Program((capture("tiny-llama"),)), PIPELINE)
    (found,) = (op for op in program.operations if op.kind is Kind.UNKNOWN)
    assert (found.target, found.status, found.count) == ("planted.mystery", "unsupported", 4)
    assert dict(found.attrs)["width"] == 1408
    others = [op for op in program.operations if op is not found]
    assert {op.status for op in others} == {"uncovered"}
    graph: Graph = program.graphs[0]
    (first, *_) = (op for op in graph.ops if op.target == "planted.mystery")
    assert (str(first.results[0].type.shape), str(first.attr("width"))) == ("(T, I)", "I")


def test_the_commands_report_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["tiny-llama"]) == 0
    out, err = capsys.readouterr()
    assert "unsupported" in out
    assert "planted.mystery" in err
    assert dooly(["coverage", "tiny-llama", "--db", str(tmp_path / "empty.sqlite")]) == 0
    assert "planted.mystery" in "".join(capsys.readouterr())
