"""Random expressions and random captured graphs."""

import sympy
from hypothesis import strategies as st

from dooly.ir import FloorDiv, Graph, Op, TensorType, Value, attributes, normal, symbol

NAMES = ("D", "H", "I", "Nkv", "Nq", "T", "V")


def expressions(depth: int = 3) -> st.SearchStrategy[sympy.Expr]:
    """Sums, differences, products, floor divisions and extrema of a few symbols."""
    leaves = st.one_of(st.integers(1, 300).map(sympy.Integer), st.sampled_from(NAMES).map(symbol))

    def extend(children: st.SearchStrategy[sympy.Expr]) -> st.SearchStrategy[sympy.Expr]:
        pairs = st.tuples(children, children)
        return st.one_of(
            pairs.map(lambda p: p[0] + p[1]),
            pairs.map(lambda p: p[0] - p[1]),
            pairs.map(lambda p: p[0] * p[1]),
            st.tuples(children, st.sampled_from([symbol("D"), sympy.Integer(64), symbol("Nq")])).map(
                lambda p: FloorDiv(normal(p[0]), p[1])
            ),
            pairs.map(lambda p: sympy.Max(normal(p[0]), normal(p[1]))),
        )

    return st.recursive(leaves, extend, max_leaves=depth * 2).map(normal)


@st.composite
def captured_graphs(draw: st.DrawFn) -> Graph:
    """A straight line of captured operations over ``[T, H]`` rows: products, norms, element-wise work, views."""
    T, H, I = symbol("T"), symbol("H"), symbol("I")  # noqa: E741
    rows, wide = TensorType("bf16", (T, H)), TensorType("bf16", (T, 2 * I))
    ops = [
        Op("input", (), (Value("x", rows),)),
        Op("weight", (), (Value("w", TensorType("bf16", (2 * I, H))),), path="m.up.weight"),
        Op("weight", (), (Value("v", TensorType("bf16", (H, I))),), path="m.down.weight"),
        Op("weight", (), (Value("g", TensorType("bf16", (H,))),), path="m.norm.weight"),
    ]
    live = ["x"]
    node = 0

    def emit(target: str, operands: tuple[str, ...], *types: TensorType, path: str = "m", **attrs: object) -> list[str]:
        nonlocal node
        names = [f"v{node}_{i}" for i in range(len(types))]
        values = tuple(Value(name, type_) for name, type_ in zip(names, types, strict=True))
        ops.append(Op(target, operands, values, attributes(**attrs), path=path, source="m.py:1", nodes=(node,)))
        node += 1
        return names

    for step in draw(
        st.lists(st.sampled_from(["mlp", "norm", "add", "view", "detach", "dead"]), min_size=1, max_size=6)
    ):
        x = draw(st.sampled_from(live))
        if step == "mlp":
            t = emit("aten.t", ("w",), TensorType("bf16", (H, 2 * I)), path="m.up")
            h = emit("aten.mm", (x, t[0]), wide, path="m.up")
            half = TensorType("bf16", (T, I))
            a = emit("aten.slice", (h[0],), half, path="m.act", dim=1, start=0)
            s = emit("aten.silu", (a[0],), half, path="m.act")
            b = emit("aten.slice", (h[0],), half, path="m.act", dim=1, start=I)
            y = emit("aten.mul", (s[0], b[0]), half, path="m.act")
            t = emit("aten.t", ("v",), TensorType("bf16", (I, H)), path="m.down")
            live += emit("aten.mm", (y[0], t[0]), rows, path="m.down")
        elif step == "norm":
            live += emit("vllm_ir.rms_norm", (x, "g"), rows, path="m.norm", epsilon=1e-5)
        elif step == "add":
            live += emit("aten.add", (x, draw(st.sampled_from(live))), rows)
        elif step == "view":
            wide3 = TensorType("bf16", (T, sympy.Integer(1), H))
            v = emit("aten.unsqueeze", (x,), wide3, dim=1)
            live += emit("aten.view", (v[0],), rows)
        elif step == "detach":
            live += emit("aten.detach", (x,), rows)
        else:
            emit("aten.silu", (x,), rows)
    return Graph(
        "random",
        (("H", 64), ("I", 96)),
        ("T",),
        tuple(ops),
        (live[-1],),
        captured=node,
    )
