"""Text of graphs and operations: exact round trip, errors with a place, no input that crashes the parser."""

import pickle
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dooly.errors import ParseError
from dooly.ir import Program, parse_program
from tests.strategies import captured_graphs

GRAPH = """graph "tiny" {
  config H = 64, I = 96, Nl = 4, TP = 2
  request L, T
  where TP | H, TP | I
  settings backend = "CPU_ATTN", platform = "cpu"
  owner "layers.0.attn" = Attention {heads = H/16, scale = 0.125, sizes = [1, [I, 2]], window = none}
  captured 5
  %x = input() : i64[T] from [request]
  %w = weight() : bf16[H, 2*I/TP] from [config, config] at "mlp.weight"
  %y, %z = region(%x, %w) {causal = true, eps = 1e-05} : bf16[T, H], f32[] from [request, config], [] x (Nl - 1) \
nodes 0-2, 4 at "layers.1" source "llama.py:93" = {
    args %0 : i64[T], %1 : bf16[H, 2*I/TP]
    %2 = embedding(%1, %0) : bf16[T, H]
    %3 = argmax(%2) : f32[]
    return %2, %3
  }
  return %y
  free "view" 3
}
"""

TABLE = """operation @linear_f8c8ce8f = linear(bf16[T, 4096], bf16[6144, 4096]) -> bf16[T, 6144] uncovered {
  use "llama" x 3 with T = L at "lm_head"
  use "qwen \\"3\\"" x 36 at "layers.0"
}
"""


@pytest.mark.parametrize("text", [GRAPH, TABLE, GRAPH + "\n" + TABLE])
def test_text_round_trip(text):
    assert str(parse_program(text)) == text


def test_comments_and_white_space_do_not_matter():
    spaced = GRAPH.replace("\n", "  # a remark\n\n\t")
    assert parse_program(spaced) == parse_program(GRAPH)


@given(captured_graphs())
def test_random_graphs_round_trip(graph):
    program = Program((graph,))
    assert parse_program(str(program)) == program


@pytest.mark.parametrize(
    ("old", "new", "message", "line", "column"),
    [
        ("i64[T]", "i65[T]", "unknown element type 'i65'", 8, 18),
        ("i64[T]", "i64[T", "expected ']'|expected ','|found", 8, 24),
        ("2*I/TP] from", "2*/TP] from", "expected a number, a symbol", 9, 29),
        ("[request, config], []", "[request, konfig], []", "unknown origin 'konfig'", 10, 91),
        ("captured 5", "captured five", "expected an integer, found 'five'", 7, 12),
        ("causal = true, eps", "eps2 = true, eps", "not sorted", 10, 3),
        ("graph", "grph", "expected 'graph' or 'operation'", 1, 1),
        ("nodes 0-2", "nodes 2-0", "bad run of nodes 2-0", 10, 120),
        ("nodes 0-2, 4", "nodes 0-900000, 0-900000", "more than 1000000 captured nodes", 10, 130),
    ],
)
def test_errors_have_line_column_and_caret(old, new, message, line, column):
    with pytest.raises(ParseError, match=message) as caught:
        parse_program(GRAPH.replace(old, new, 1))
    assert (caught.value.line, caught.value.column) == (line, column)
    *_, source, caret = str(caught.value).split("\n")
    assert len(caret) - 2 == column
    assert source.strip()
    elsewhere = pickle.loads(pickle.dumps(caught.value))
    assert (str(elsewhere), elsewhere.line, elsewhere.column) == (str(caught.value), line, column)


def test_an_edited_operation_must_be_renamed():
    with pytest.raises(ParseError, match="expected @linear_"):
        parse_program(TABLE.replace("6144", "6145"))


def test_of_a_long_line_only_the_place_is_shown():
    with pytest.raises(ParseError) as caught:
        parse_program('graph "g" { captured 0 return ' + "%a, " * 10_000 + "!" + " " * 10_000 + "}")
    _, source, caret = str(caught.value).split("\n")
    assert len(source) < 250
    assert source[caret.index("^")] == "!"


def test_a_use_counts_at_least_once():
    with pytest.raises(ParseError, match="counts -3, expected at least 1"):
        parse_program(TABLE.replace("x 3 ", "x -3 "))


VALUES = '{a = -1, b = -0.0, c = inf, d = 1e+16, e = [], f = [[]], g = "\\"#\\n\\u00e9", h = -I/2, i = none}'


def test_odd_values_round_trip():
    text = GRAPH.replace("{causal = true, eps = 1e-05}", VALUES).replace('"layers.1"', r'"a\\b\"\n"')
    assert VALUES in str(parse_program(text))
    assert str(parse_program(text)) == text


@given(st.text(max_size=80))
def test_any_text_parses_or_fails_cleanly(text):
    with suppress(ParseError):
        parse_program(text)


@given(
    st.integers(0, len(GRAPH)),
    st.integers(0, 12),
    st.sampled_from(["", "(", "]", "%", '"', "**", "@", "9" * 50, "= {"]),
)
def test_damaged_text_parses_or_fails_cleanly(start, length, insert):
    with suppress(ParseError):
        parse_program(GRAPH[:start] + insert + GRAPH[start + length :])


@settings(deadline=2000)
@given(st.data())
def test_text_damaged_in_many_places_parses_or_fails_cleanly(data):
    text = GRAPH
    for _ in range(data.draw(st.integers(1, 6))):
        a, b = sorted(data.draw(st.tuples(st.integers(0, len(text)), st.integers(0, len(text)))))
        how = data.draw(st.sampled_from(["delete", "swap", "repeat"]))
        end = min(b, a + 8)
        if how == "delete":
            text = text[:a] + text[end:]
        elif how == "swap":
            text = text[:a] + text[b : b + 8] + text[end:b] + text[a:end] + text[b + 8 :]
        else:
            text = text[:b] + text[a:end] + text[b:]
    with suppress(ParseError):
        parse_program(text)


@settings(deadline=2000)
@given(
    st.sampled_from([("i64[T]", "i64[{}]"), ("sizes = [1, [I, 2]]", "sizes = {}"), ("heads = H/16", "heads = {}")]),
    st.sampled_from([("(", ")"), ("[", "]"), ("floor(", ")"), ("-", ""), ("2**", ""), ("T/", "")]),
    st.sampled_from([21, 500, 20_000]),
    st.sampled_from(["T", "9" * 5000, "0", "T**99999999", "2**99999999", "(T + L)**3000"]),
)
def test_deep_and_huge_expressions_fail_cleanly_and_soon(place, brackets, depth, core):
    """Each within two seconds: no power is computed and no nesting is followed to its end."""
    old, new = place
    text = GRAPH.replace(old, new.format(brackets[0] * depth + core + brackets[1] * depth), 1)
    assert text != GRAPH
    with suppress(ParseError):
        parse_program(text)
