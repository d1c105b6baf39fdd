"""Each rule of the verifier has a graph that breaks it and a message of its own."""

from dataclasses import replace

import pytest

from dooly.errors import VerifyError
from dooly.ir import Use, parse_program, verify
from dooly.passes import run, select

GOOD = """graph "g" {
  config H = 64, Nl = 2, TP = 2
  request T
  where TP | H
  captured 2
  %x = input() : bf16[T, H] from [request, config]
  %w = weight() : bf16[H] at "norm.weight"
  %y = rms_norm(%x, %w) : bf16[T, H] x (Nl - 1) nodes 0 at "norm"
  %z = region(%y) : bf16[T, H] nodes 1 = {
    args %0 : bf16[T, H]
    %1 = silu(%0) : bf16[T, H] nodes 1
    return %1
  }
  return %z
}
"""


def test_a_good_graph_passes():
    verify(parse_program(GOOD))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("request T", "request H, T", "H is both a configuration and a request symbol"),
        ("H = 64", "H = 0", "configuration symbol H = 0 is not positive"),
        ("TP | H", "TP | X", "fact uses undeclared symbol X"),
        ("TP = 2", "TP = 3", "TP does not divide H"),
        ("return %z", "return %q", "returns %q, which nothing defines"),
        ("rms_norm(%x", "rms_norm(%y", "%y reads %y before it is defined"),
        ("%w = weight", "%x = weight", "%x is defined twice"),
        ("bf16[H] at", "bf16[Q] at", "Q of %w at norm.weight has an unknown origin: Q is declared neither"),
        ("bf16[H] at", "bf16[H/3] at", "is 64/3, not a size"),
        ("x (Nl - 1)", "x T", "count of %y depends on the request"),
        ("x (Nl - 1)", "x (Nl - 2)", "the count of %y is 0"),
        ("from [request, config]", "from [request, request]", "H of %x is config, not request"),
        ("args %0 : bf16[T, H]", "args %0 : bf16[T, 2*H]", "argument types differ from the operands'"),
        ("    return %1", "    return %9", "body of %z: returns %9"),
        ("    %1 = silu(%0) : bf16[T, H]", "    %1 = silu(%0) : f32[T, H]", "returned types differ from the results'"),
        ("nodes 1 =", "nodes 0 =", "captured node 0 is counted twice, in %y and in %z"),
        ("nodes 1 =", "=", "captured nodes 1 are in no operation and not free"),
        ("captured 2", "captured 1", "nodes 1 were never captured"),
        ("captured 2", "captured 999999999999999", "captured nodes 2, 3, .*, 11 are in no operation and not free"),
        ("bf16[T, H] nodes 1\n", "bf16[T, H]\n", "the body of %z stands for other captured nodes than %z"),
        ("H = 64", "H = 64, H = 65", "a configuration symbol is declared twice: H, H, Nl, TP"),
        ("request T", "request T, T", "a request symbol is declared twice"),
        ("TP | H", "TP - 2 | H", "a fact divides by TP - 2, which is zero"),
        ("x (Nl - 1)", "x H/(Nl - TP)", "divides by zero"),
        ("rms_norm(%x, %w)", "rms_norm(%x, %w) {eps = [1, Q]}", "Q of %y at norm has an unknown origin"),
    ],
)
def test_a_broken_rule_is_named(old, new, message):
    text = GOOD.replace(old, new, 1)
    assert text != GOOD
    with pytest.raises(VerifyError, match=message):
        verify(parse_program(text))


def test_two_graphs_of_one_name():
    with pytest.raises(VerifyError, match="two graphs have one name"):
        verify(parse_program(GOOD + GOOD.replace("Nl = 2", "Nl = 3")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ops: ops[:1], "region at z runs 1 times, the operation table counts 0"),
        (lambda ops: (*ops, ops[0]), "linear at y runs 3 times, the operation table counts 6"),
        (lambda ops: (replace(ops[0], uses=(Use("g", "y", 2),)), ops[1]), "runs 3 times, .* counts 2"),
    ],
)
def test_the_table_accounts_for_all_work_of_a_graph(change, message):
    text = """graph "g" { config H = 4, Nl = 3
      request T
      captured 2
      %x = input() : f32[T, H] %w = weight() : f32[H, H]
      %y = linear(%x, %w) : f32[T, H] x Nl nodes 0 at "y"
      %z = silu(%y) : f32[T, H] nodes 1 at "z"
      return %z }"""
    lowered = run(parse_program(text), select("propagate-taint,fuse-regions,lower"))
    with pytest.raises(VerifyError, match=message):
        verify(replace(lowered, operations=change(lowered.operations)))
