"""``python -m dooly.passes`` on IR text: selection, output, and one line with exit status 2 for bad input."""

import io
import sys

import pytest

from dooly.ir import parse_program
from dooly.passes import PIPELINE
from dooly.passes.__main__ import main

GRAPH = """graph "g" {
  config H = 64, I = 96
  request T
  captured 2
  %x = input() : bf16[T, H] at "x"
  %w = weight() : bf16[I, H] at "m.up.weight"
  %t = aten.t(%w) : bf16[H, I] nodes 0 at "m.up"
  %y = aten.mm(%x, %t) : bf16[T, I] nodes 1 at "m.up"
  return %y
}
"""


@pytest.fixture
def graph(tmp_path):
    path = tmp_path / "g.ir"
    path.write_text(GRAPH)
    return path


def test_all_passes_print_graph_and_table(graph, capsys):
    assert main([str(graph)]) == 0
    program = parse_program(capsys.readouterr().out)
    assert [op.target for op in program.operations] == ["linear"]
    assert program.operations[0].status == "uncovered"


def test_a_size_that_the_graph_was_captured_with(capsys):
    assert main(["docs/mlp.ir", "-p", "annotate-shapes"]) == 0
    alone = capsys.readouterr().out
    assert main(["docs/mlp.ir", "-p", "annotate-shapes", "--tp", "2"]) == 0
    assert capsys.readouterr().out == alone


def test_selected_passes_and_output_file(graph, tmp_path, capsys):
    out = tmp_path / "out.ir"
    assert main([str(graph), "-p", "annotate-shapes,propagate-taint", "-o", str(out), "--time-passes"]) == 0
    assert "aten.mm" in out.read_text()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert [line.split()[-1] for line in captured.err.splitlines()] == ["annotate-shapes", "propagate-taint"]


def test_any_stage_can_be_dumped_and_fed_back(graph, tmp_path, capsys):
    assert main([str(graph)]) == 0
    straight = capsys.readouterr().out
    stage = tmp_path / "stage.ir"
    assert main([str(graph), "-p", "annotate-shapes,propagate-taint,expand-opaque,canonicalize", "-o", str(stage)]) == 0
    assert main([str(stage)]) == 0
    assert capsys.readouterr().out == straight


def test_standard_input(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO(GRAPH))
    assert main(["-", "-p", "canonicalize"]) == 0
    assert "linear(" in capsys.readouterr().out


def test_print_after_goes_to_stderr(graph, capsys):
    assert main([str(graph), "--print-after", "all"]) == 0
    err = capsys.readouterr().err
    assert [line for line in err.splitlines() if line.startswith("# after")] == [f"# after {p.name}" for p in PIPELINE]


def test_several_models_print_one_table(graph, tmp_path, capsys):
    other = tmp_path / "h.ir"
    other.write_text(GRAPH.replace('"g"', '"h"'))
    assert main([str(graph), str(other)]) == 0
    captured = capsys.readouterr()
    program = parse_program(captured.out)
    assert not program.graphs
    assert [use.model for use in program.operations[0].uses] == ["g", "h"]
    assert "1 distinct operations for 2 in 2 models" in captured.err


def test_a_model_in_two_tables_is_refused(graph, tmp_path, capsys):
    table = tmp_path / "table.ir"
    assert main([str(graph), "-o", str(table)]) == 0
    other = tmp_path / "other.ir"
    other.write_text(table.read_text().replace("x 1 at", "x 2 at"))
    assert main([str(table), str(table), "-p", "cover"]) == 0
    assert main([str(table), str(other), "-p", "cover"]) == 2
    assert "two tables count g; give each model once" in capsys.readouterr().err


def test_list_names_passes_and_models(capsys):
    assert main(["--list"]) == 0
    out = capsys.readouterr().out
    assert all(p.name in out for p in PIPELINE)
    assert "llama-3.1-8b" in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "name a model"),
        (["{graph}", "-p", "nope"], "unknown pass 'nope'; known passes: annotate-shapes"),
        (["{graph}", "-p", ","], "no pass named"),
        (["{graph}", "-p", "dedup"], "run lower first"),
        (["{graph}", "--print-after", "nope"], "--print-after nope: not among the passes"),
        (["{graph}", "--platform", "tpu"], "invalid choice: 'tpu'"),
        (["{graph}", "--nope"], "unrecognized arguments: --nope"),
        (["{graph}", "--tp", "x"], "invalid int value"),
        (["missing.ir"], "missing.ir: No such file or directory"),
        (["{graph}", "--tp", "2"], "--tp is for models that are captured"),
        (["docs/mlp.ir", "--tp", "4"], "--tp is for models that are captured"),
        (["{graph}", "--kv-cache-dtype", "fp8"], "--kv-cache-dtype is for models that are captured"),
        (["{graph}", "-o", "/nonexistent/x.ir"], "/nonexistent/x.ir: cannot write: No such file"),
        (["{graph}", "{graph}", "{other}"], "two graphs have one name"),
    ],
)
def test_bad_input_is_one_line_and_status_2(argv, message, graph, tmp_path, capsys):
    other = tmp_path / "other.ir"
    other.write_text(GRAPH.replace("H = 64", "H = 65"))
    assert main([arg.format(graph=graph, other=other) for arg in argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("dooly: error: ")
    assert message in line


def test_malformed_ir_points_at_the_place(graph, capsys):
    graph.write_text(GRAPH.replace("aten.mm(%x", "aten.mm(x"))
    assert main([str(graph)]) == 2
    first, source, caret = capsys.readouterr().err.splitlines()
    assert first == f"dooly: error: {graph}: line 8, column 16: expected '%', found 'x, %t) : bf16[T, I] '"
    assert source[caret.index("^")] == "x"


def test_binary_file_is_refused(graph, capsys):
    graph.write_bytes(b"\x89PNG\xff")
    assert main([str(graph)]) == 2
    assert "not UTF-8 text (byte 0)" in capsys.readouterr().err


def test_binary_standard_input_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\x89PNG"), encoding="utf-8"))
    assert main(["-"]) == 2
    assert "standard input: not UTF-8 text (byte 0)" in capsys.readouterr().err


def test_a_product_that_no_rule_knows_is_unsupported_and_no_error(graph, capsys):
    text = GRAPH.replace("bf16[I, H] at", "bf16[H, I] at").replace("%t = aten.t(%w)", "%t = odd.kernel(%w)")
    graph.write_text(text.replace("aten.mm", "aten.vdot"))
    assert main([str(graph)]) == 0
    operations = parse_program(capsys.readouterr().out).operations
    assert [(op.target, op.status) for op in operations] == [("aten.vdot", "unsupported"), ("odd.kernel", "unsupported")]


def test_what_ships_covers_a_model_of_a_gpu_and_nothing_is_covered_unasked(capsys):
    tables = {}
    for options in ((), ("--db", "no-such.sqlite")):
        assert main(["tests/golden/gpu/llama-3.1-8b,backend=flash_attn.ir", *options]) == 0
        tables[options] = capsys.readouterr().out
    marks = {options: {op.status for op in parse_program(table).operations} for options, table in tables.items()}
    assert marks == {(): {"uncovered"}, ("--db", "no-such.sqlite"): {"covered"}}


def test_a_database_is_for_the_pass_that_marks_what_it_covers(capsys):
    assert main(["docs/mlp.ir", "-p", "annotate-shapes", "--db", "x.sqlite"]) == 2
    assert "--db is for the pass cover" in capsys.readouterr().err
