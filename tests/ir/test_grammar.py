"""The grammar in the docs against the parser: what is printed follows it, and what does not follow it is refused."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings

from dooly.errors import ParseError
from dooly.ir import Program, format_expr, parse_program
from dooly.passes import PIPELINE, run
from tests.ir.test_text import GRAPH, TABLE, VALUES
from tests.strategies import captured_graphs, expressions

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reference" / "the-text-of-the-ir.md").read_text()
RULES = dict(
    re.findall(r"^(\w+) += (.*?) ;$", re.search(r"```ebnf\n(.*?)```", PAGE, re.DOTALL)[1], re.MULTILINE | re.DOTALL)
)
TOKEN = re.compile(r'\s*("[^"]*"|/(?:[^/\\]|\\.)*/|\w+|[][{}()|])')
SPACE = re.compile(r"(?:\s+|#[^\n]*)*")

Node = tuple  # ("seq" | "or", nodes), ("many" | "maybe", node), ("text" | "match" | "rule", string)


@cache
def rule(name: str) -> Node:
    text = RULES[name]
    if text.startswith("/"):
        return ("match", re.compile(text[1:-1]))
    node, rest = choice(TOKEN.findall(text))
    assert not rest, f"{name}: {rest}"
    return node


def choice(tokens: list[str]) -> tuple[Node, list[str]]:
    options: list[Node] = []
    while True:
        items: list[Node] = []
        while tokens and tokens[0] not in "|])}":
            node, tokens = item(tokens)
            items.append(node)
        options.append(("seq", tuple(items)))
        if not tokens or tokens[0] != "|":
            return ("or", tuple(options)), tokens
        tokens = tokens[1:]


def item(tokens: list[str]) -> tuple[Node, list[str]]:
    first, rest = tokens[0], tokens[1:]
    if first in "[{(":
        node, rest = choice(rest)
        assert rest[0] == {"[": "]", "{": "}", "(": ")"}[first]
        return ({"[": ("maybe", node), "{": ("many", node), "(": node}[first]), rest[1:]
    if first.startswith('"'):
        return ("text", first[1:-1]), rest
    return ("rule", first), rest


def follows(text: str) -> bool:
    """Whether the whole text is a `program` of the grammar in the docs."""
    known: dict[tuple[str, int], tuple[int, ...]] = {}

    def ends(node: Node, at: int) -> Iterator[int]:
        kind, what = node
        if kind == "text":
            word = text.startswith(what, at)
            if word and not (what[-1].isalnum() and re.match(r"[\w.]", text[at + len(what) : at + len(what) + 1])):
                yield SPACE.match(text, at + len(what)).end()
        elif kind == "match":
            if found := what.match(text, at):
                yield SPACE.match(text, found.end()).end()
        elif kind == "rule":
            if (what, at) not in known:
                known[what, at] = tuple(dict.fromkeys(ends(rule(what), at)))
            yield from known[what, at]
        elif kind == "or":
            for option in what:
                yield from ends(option, at)
        elif kind == "seq":
            if not what:
                yield at
                return
            for middle in dict.fromkeys(ends(what[0], at)):
                yield from ends(("seq", what[1:]), middle)
        else:
            reached, fresh = {at}, [at]
            while fresh:
                fresh = [end for start in fresh for end in dict.fromkeys(ends(what, start)) if end not in reached]
                reached |= set(fresh)
                if kind == "maybe":
                    break
            yield from sorted(reached, reverse=True)

    return len(text) in ends(("rule", "program"), SPACE.match(text, 0).end())


def test_every_rule_is_used_and_defined():
    used = {
        name
        for text in RULES.values()
        if not text.startswith("/")
        for name in re.findall(r"\w+", re.sub(r'"[^"]*"', "", text))
    }
    assert used == set(RULES) - {"program"}


def examples() -> list[str]:
    golden = [
        text
        for path in sorted((ROOT / "tests/golden").glob("*.ir"))
        for text in re.split("^(?:===.*|---.*)\n", path.read_text(), flags=re.MULTILINE)
    ]
    texts = [GRAPH, TABLE, (ROOT / "docs" / "mlp.ir").read_text(), *golden]
    return [*filter(str.strip, texts), GRAPH.replace("{causal = true, eps = 1e-05}", VALUES)]


def test_what_is_printed_follows_the_grammar():
    for text in examples():
        parse_program(text)
        assert follows(text), text


@settings(max_examples=15)
@given(captured_graphs(), expressions())
def test_random_programs_follow_the_grammar(graph, dimension):
    text = str(run(Program((graph,)), PIPELINE))
    assert follows(text)
    assert follows(text.replace("[T, 64]", f"[T, {format_expr(dimension)}]"))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("graph", "grph"),
        ("captured 5", "captured five"),
        ("i64[T]", "i64[T"),
        ("%x = input()", "x = input()"),
        ("2*I/TP]", "2*/TP]"),
        ("where TP | H", "where TP H"),
        ("= Attention", "Attention"),
        ("return %y", ""),
        ('free "view" 3', "free view 3"),
        ("nodes 0-2", "nodes -2"),
        ("scale = 0.125", "scale : 0.125"),
        ("x (Nl - 1)", "x (Nl - 1"),
        ('at "layers.1"', "at layers.1"),
        ("from [request]", "from [requests]"),
    ],
)
def test_what_does_not_follow_it_is_refused(old, new):
    text = GRAPH.replace(old, new, 1)
    assert text != GRAPH
    assert not follows(text)
    with pytest.raises(ParseError):
        parse_program(text)
