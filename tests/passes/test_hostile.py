"""IR texts that somebody made to break things: a right value, or one line that says what is wrong, and soon."""

import time

import pytest

from dooly.passes.__main__ import main

REGION = """graph "g" {
  config H = 512
  request T
  captured 1
  %x = input() : bf16[T, H]
  %y = region(%x) : bf16[T, H] nodes 0 at "m" = {
    args %0 : bf16[T, H]
    %1 = silu(%0) : bf16[T, H] nodes 0 at "m"
    return %1
  }
  return %y
}
operation @region_4106fd49 = region(bf16[T, 512]) -> bf16[T, 512] {
  args %0 : bf16[T, 512]
  %1 = silu(%nowhere) : bf16[T, 512]
  return %1
  use "g" x 1 at "m"
}
"""
SPLIT = """graph "g" {
  config D = 64
  request T
  captured 3
  %x = input() : bf16[]
  %a, %b = split(%x) {dim = 1} : bf16[], f16[] nodes 0
  %s = silu(%a) : bf16[] nodes 1 at "m"
  %v = reshape(%s) : bf16[T, D] nodes 2 at "m"
  return %v, %b
}
"""


def graph(header: str, size: str, rest: str = "") -> str:
    return f'graph "g" {{\n  config {header}\n  request T\n  captured 0\n  %x = input() : f32[{size}]\n{rest}  return %{"y" if rest else "x"}\n}}\n'


def operation(size: str) -> str:
    return f"operation @f_0 = f(f32[{size}]) -> f32[1]\n"


def nested(depth: int) -> str:
    """Extrema of extrema of products: about 3,000 characters at depth 3."""
    if depth == 0:
        return "A*B - C"
    return f"{('max', 'min')[depth % 2]}({', '.join(f'{nested(depth - 1)} + {i}' for i in range(6))})"


@pytest.mark.parametrize(
    ("text", "passes", "message"),
    [
        (operation("1.5/0.0"), None, "column 24: expected a whole number, found '1.5'"),
        (operation("1//T//0.0//-1"), None, "expected a whole number, found '0.0'"),
        (operation("max(T, 1//0.1)"), None, "expected a whole number, found '0.1'"),
        (operation(nested(3)), None, "expression too large"),
        (operation("//".join(["T"] * 500)), None, "expression too large"),
        (operation("T/(A - A)"), None, "division by zero"),
        (SPLIT, None, " at no module is no well-formed split: it lacks an operand, a result or an axis"),
        (REGION, "dedup,cover", "body of @region_4106fd49: %1 reads %nowhere before it is defined"),
        (graph(f"A = {'9' * 29}", "A"), None, f"configuration symbol A = {'9' * 29} is larger than a size can be"),
        (graph("A = 9999999999", "A**16/7"), None, "A**16/7 of %x is more than 9223372036854775807, not a size"),
        (graph("A = 3, B = 3", "T//(A - B)", "  %y = silu(%x) : f32[T//(A - B)]\n"), None, "divides by zero"),
        (graph("A = 3", "A", "  %y = input(%x) : f32[A]\n"), None, "%y stands for input and reads %x"),
        (
            graph("H = 3", "H", "  %y, %z = reshape(%x) : f32[H], f32[H]\n"),
            None,
            "%y at no module is no well-formed reshape: it repeats its operand in 2 results",
        ),
        (operation("TP//(1/(N//T - D))//(Nq)//T"), None, "expression too complex: its normal form reads as another"),
        ("", None, "expected 'graph' or 'operation', found the end of the text"),
        ("# nothing but a remark\n", None, "expected 'graph' or 'operation', found the end of the text"),
        ("operation @f_0\x1b[31m = f(f32[1])", None, r"operation @f_0\x1b[31m = f"),
    ],
)
def test_it_is_refused_in_one_clear_line(text, passes, message, tmp_path, capsys):
    path = tmp_path / "hostile.ir"
    path.write_text(text)
    start = time.process_time()
    assert main([str(path), *(() if passes is None else ("-p", passes))]) == 2
    assert time.process_time() - start < 5
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("dooly: error: ")
    assert message in err
    assert all(c.isprintable() or c == "\n" for c in err)


def test_five_arguments_are_printed_and_read_again(tmp_path, capsys):
    path = tmp_path / "max.ir"
    path.write_text('operation @f_fdfa36fb = f(f32[max(A, max(B, C, D, E))]) -> f32[1] {\n  use "m" x 1 at "p"\n}\n')
    assert main([str(path)]) == 0
    printed = capsys.readouterr().out
    assert "f32[max(A, B, C, D, E)]" in printed
    path.write_text(printed)
    assert main([str(path)]) == 0
    assert capsys.readouterr().out == printed
