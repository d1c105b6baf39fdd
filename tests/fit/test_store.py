import json
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dooly.errors import FitError
from dooly.fit import Formula, Held, Parameter, Range, fit
from dooly.fit.residual import Curve, Field
from dooly.fit.store import from_json, to_json
from dooly.fit.terms import PARAMETERS, Contribution
from dooly.ir.expr import Expr, FloorDiv, normal, symbol
from tests.fit import laws

positive = st.floats(1e-6, 1e6)
names = st.sampled_from(["T", "R", "S", "P"]).map(symbol)
quantities = st.builds(
    lambda a, x, b, y, tile: normal(a * x + b * y) if tile == 1 else normal(a * FloorDiv(x + tile - 1, tile)),
    st.integers(1, 10**9),
    names,
    st.integers(0, 10**6),
    names,
    st.sampled_from([1, 1, 64]),
)


@st.composite
def residuals(draw: st.DrawFn) -> Curve | Field | None:
    kind = draw(st.sampled_from(["none", "curve", "field"]))
    if kind == "none":
        return None
    if kind == "curve":
        at = sorted(draw(st.lists(positive, min_size=1, max_size=5, unique=True)))
        times = sorted(draw(st.lists(positive, min_size=len(at), max_size=len(at))))
        return Curve("T", tuple(at), tuple(times), (draw(positive), draw(positive)))
    coordinates: tuple[Expr, ...] = (symbol("R"), symbol("T") / symbol("R"))
    anchors = draw(st.lists(st.tuples(positive, positive), min_size=1, max_size=4))
    weights = draw(st.lists(st.floats(-3, 3), min_size=len(anchors), max_size=len(anchors)))
    return Field(coordinates, tuple(anchors), tuple(weights), draw(positive))


@st.composite
def formulas(draw: st.DrawFn) -> Formula:
    used = draw(st.lists(st.sampled_from(sorted(PARAMETERS)), min_size=1, max_size=4, unique=True))
    contributions = [Contribution(name, draw(quantities)) for name in used]
    cut = draw(st.integers(0, len(used) - 1))
    structure = (*((c,) for c in contributions[:cut]), tuple(contributions[cut:]))
    parameters = []
    for name in used:
        low, value, high = sorted(draw(st.tuples(positive, positive, positive)))
        parameters.append(Parameter(name, value, low, draw(st.sampled_from([high, inf])), PARAMETERS[name].unit))
    low, high = sorted(draw(st.tuples(positive, positive)))
    return Formula(
        "a" * 16,
        "linear_aaaaaaaa",
        draw(quantities),
        draw(quantities),
        structure,
        tuple(parameters),
        draw(residuals()),
        (Range(draw(quantities), low, high),),
        Held(
            draw(positive),
            draw(positive),
            '{"T":3}',
            draw(st.floats(-1, 1)),
            draw(positive),
            draw(st.integers(0, 9)),
            draw(st.integers(1, 99)),
        ),
        plan_us=draw(st.just((0.0, 0.0)) | st.tuples(positive, positive)),
        queued_us=draw(st.just(0.0) | positive),
        lenders=draw(st.integers(0, 9)),
    )


@given(formulas())
def test_round_trip(formula: Formula) -> None:
    assert from_json(to_json(formula)) == formula
    assert from_json(json.dumps(to_json(formula), allow_nan=False)) == formula


def stored() -> dict[str, Any]:
    return to_json(fit(laws.linear(64, 64), laws.over_tokens(lambda v: 1.0 + v["T"])))


def test_predictions_survive_the_round_trip() -> None:
    operation = laws.attention()
    law = laws.noisy(lambda v: 5.0 + laws.moved(operation, v) / 1e6, 0.2, seed=3)
    formula = fit(operation, laws.over_batches(law, laws.batches()))
    again = from_json(json.dumps(to_json(formula)))
    for batch in laws.batches(seed=1):
        assert again.predict_one(batch.attention()) == formula.predict_one(batch.attention())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", 99),
        ("name", 3),
        ("flops", "__import__('os')"),
        ("flops", "T +"),
        ("terms", []),
        ("terms", [[{"parameter": "magic", "quantity": "T"}]]),
        ("parameters", []),
        ("residual", {"kind": "forest"}),
        ("residual", {"kind": "curve", "symbolic_us": [2, 1], "factor": [1, 1]}),
        ("residual", {"kind": "curve", "symbolic_us": [float("nan")], "factor": [1]}),
        ("domain", [{"quantity": "T", "low": "1", "high": 2}]),
        ("held_out", {}),
    ],
)
def test_a_spoilt_formula_is_refused_on_one_line(key: str, value: object) -> None:
    with pytest.raises(FitError) as caught:
        from_json({**stored(), key: value})
    assert "\n" not in str(caught.value)
    assert "fit again" in str(caught.value)


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", "{"])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(FitError, match="not readable"):
        from_json(text)


@pytest.mark.parametrize("value", [1e300, 2.0**41])
def test_a_formula_that_gives_no_time_is_refused_in_one_line(value: float) -> None:
    formula = Formula(
        signature="s",
        name="linear",
        flops=symbol("T"),
        bytes=symbol("T"),
        structure=((Contribution("launch", symbol("T") / symbol("T"), symbol("T") / symbol("T")),),),
        parameters=(Parameter("launch", value, 0.0, inf, "us"),),
        residual=None,
        domain=(),
        held=Held(0.0, 0.0, (), 0.0, 0.0, 0, 0),
    )
    with pytest.raises(FitError, match=r"linear: its formula gives no time .* us.; fit again"):
        formula.predict_one({"T": 1.0})
    with pytest.raises(FitError, match=r"linear: its formula gives no time .* us.; fit again"):
        formula.predict({"T": [1.0]})
