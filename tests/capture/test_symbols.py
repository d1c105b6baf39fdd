"""PyTorch's arithmetic of sizes read as ours: equal values everywhere, negative divisors and dividends included."""

import pytest

from dooly.ir import evaluate, symbol

pytestmark = pytest.mark.engine


@pytest.mark.parametrize("tokens", [1, 255, 257, 1021, 1024])
def test_quotients_round_as_pytorch_rounds_them(tokens: int) -> None:
    import sympy
    from torch.utils._sympy.functions import FloorDiv, PythonMod

    from dooly.capture.symbols import Reader

    t, q = (sympy.Symbol(name, integer=True, positive=True) for name in ("s0", "s1"))
    padded = -FloorDiv(-t, q) * q
    chunks = -FloorDiv(-t, q)
    reader = Reader({t: symbol("T"), q: symbol("Q")}, ())
    either_sign = FloorDiv(t * q + 1, t - q), FloorDiv(t * q + 1, q - t)
    for e in (FloorDiv(t, q), -FloorDiv(t, -q), FloorDiv(padded, chunks), PythonMod(t, q), *either_sign):
        found = evaluate(reader.size(_Size(e)), {"T": tokens, "Q": 256})
        assert found == int(e.subs({t: tokens, q: 256})), e


class _Size:
    """As ``torch.SymInt`` holds an expression."""

    def __init__(self, expr: object) -> None:
        self.node = self
        self.expr = expr
