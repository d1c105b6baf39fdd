"""Whatever was measured, a formula comes out, never a warning; or the points were too few."""

import json
from contextlib import suppress

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dooly.batch import Batch
from dooly.errors import FitError
from dooly.fit import Formula, Observation, fit, fit_host
from dooly.fit.format import latex, line
from dooly.fit.store import from_json, to_json
from tests.fit import laws

latencies = st.floats(1e-3, 1e9)
spreads = st.floats(0, 50)
sizes = st.integers(1, 100_000)


def check(formula: Formula) -> None:
    assert from_json(json.dumps(to_json(formula), allow_nan=False)) == formula
    assert "\n" not in line(formula)
    assert latex(formula)
    columns = {name: np.array([1.0, 7.0, 1e6]) for name in formula.symbols}
    with suppress(FitError):  # a million tokens of an hour each: no time is given
        latency, _ = formula.predict(columns)
        assert np.all(np.isfinite(latency))
        assert np.all(latency >= 0)


@settings(max_examples=25)
@given(st.lists(st.tuples(sizes, latencies, spreads), min_size=3, max_size=20, unique_by=lambda row: row[0]))
def test_one_axis(rows: list[tuple[int, float, float]]) -> None:
    check(fit(laws.linear(64, 96), [Observation((("T", t),), None, us, spread) for t, us, spread in rows]))


@settings(max_examples=15)
@given(
    st.lists(
        st.tuples(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 50)), min_size=1, max_size=5), latencies),
        min_size=5,
        max_size=14,
    )
)
def test_attention(rows: list[tuple[list[tuple[int, int]], float]]) -> None:
    observations = [Observation((), Batch.of(*requests), us) for requests, us in rows]
    with suppress(FitError):  # too few distinct points
        check(fit(laws.attention(), observations))


@settings(max_examples=15)
@given(st.lists(st.tuples(st.integers(1, 64), st.integers(1, 4096), latencies), min_size=2, max_size=9))
def test_host(rows: list[tuple[int, int, float]]) -> None:
    observations = [Observation((("R", r), ("T", t)), None, us) for r, t, us in rows]
    with suppress(FitError):  # too few distinct points
        check(fit_host("host_before", observations))
