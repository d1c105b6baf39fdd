"""Witnesses of what comes through torch.export: models of transformers, and modules written by hand."""

import json
from collections.abc import Mapping
from dataclasses import replace

import pytest
import sympy

from dooly.capture import check, export_checked
from dooly.capture.export import export_module
from dooly.capture.options import Options
from dooly.cli import main
from dooly.errors import CaptureError
from dooly.ir import Graph, Value
from dooly.provenance import verify_module, verify_provenance
from tests.capture.test_export import Block

pytestmark = pytest.mark.engine

INPUTS = {"x": ("f32", ("T", "H"))}


def block(config: Mapping[str, int]) -> Block:
    return Block(config["H"], config["I"], config["N"])


def with_dimension(graph: Graph, path: str, axis: int, size: object) -> Graph:
    """The graph with one dimension of one weight changed."""
    place = next(i for i, op in enumerate(graph.ops) if op.path == path)
    op = graph.ops[place]
    (value,) = op.results
    shape = list(value.type.shape)
    shape[axis] = sympy.S(size)
    wrong = replace(op, results=(Value(value.name, replace(value.type, shape=tuple(shape))),))
    return replace(graph, ops=(*graph.ops[:place], wrong, *graph.ops[place + 1 :]))


@pytest.mark.parametrize("model", ["llama-2-7b", "llama-3.2-1b", "qwen3-8b", "qwen2.5-7b"])
def test_every_dimension_of_a_transformer_is_confirmed(model: str) -> None:
    """With as many KV heads as heads, with fewer; with an embedding that is the output projection too, and without."""
    (report,) = verify_provenance(model, exported=True, count=2)
    assert [str(each) for each in report.counterexamples] == []
    assert report.holds
    assert report.claims == report.claims_confirmed > report.dimensions > 400
    assert report.fixed == ()


def test_a_size_of_a_transformer_that_lost_its_symbol_is_caught() -> None:
    graph = export_checked(*check("tiny-llama", Options()))
    path = "model.layers.1.mlp.up_proj.weight"
    (report,) = verify_provenance("tiny-llama", exported=True, graphs=(with_dimension(graph, path, 1, 512),), count=1)
    assert str(report.counterexamples[0]).startswith(
        f"{path}: weight: dimension 1 of result 0: claimed 512, predicted 512, found "
    )


def test_a_module_written_by_hand_is_confirmed_at_other_values() -> None:
    graph = export_module("block", block, {"H": 512, "I": 512, "N": 8}, INPUTS)
    report = verify_module(block, graph, INPUTS)
    assert [str(each) for each in report.counterexamples] == []
    assert report.holds
    assert report.fixed == ()
    assert all(values["H"] % values["N"] == 0 for values in report.witnesses)


def test_two_sizes_of_a_module_taken_for_one_are_caught() -> None:
    graph = export_module("block", block, {"H": 512, "I": 512, "N": 8}, INPUTS)
    report = verify_module(block, with_dimension(graph, "up.weight", 0, sympy.Symbol("H")), INPUTS)
    assert not report.holds


def test_a_module_that_takes_no_other_values_is_said() -> None:
    def stubborn(config: Mapping[str, int]) -> Block:
        assert config["H"] == 512
        return block(config)

    graph = export_module("stubborn", stubborn, {"H": 512, "I": 512, "N": 8}, INPUTS)
    with pytest.raises(CaptureError, match=r"stubborn: no witness of 40 is valid; the last: .*cannot be built"):
        verify_module(stubborn, graph, INPUTS)


def test_the_command_verifies_exported_models(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["verify-provenance", "tiny-llama", "--frontend", "export", "--witnesses", "1", "--json"]
    assert main(command) == 0
    (report,) = json.loads(capsys.readouterr().out)
    assert report["holds"]
    assert main([*command, "--tp", "2"]) == 2
    assert "--frontend export has no engine" in capsys.readouterr().err
    assert main(["verify-provenance", "docs/mlp.ir"]) == 2
    assert "docs/mlp.ir: IR cannot be built again at other sizes" in capsys.readouterr().err
