"""Synthetic traces: tables reproduce the quantiles they were fitted to; the shipped trace comes from its fit."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dooly.errors import TraceError
from dooly.simulate.synthetic import fit_trace, read_fit, sample_trace, write_fit
from dooly.simulate.trace import Trace, TraceRequest, read_trace

SHIPPED = Path(__file__).parents[2] / "dooly" / "traces"


def original(count: int = 3000) -> Trace:
    """Lengths that depend on each other without correlating: short prompts and long ones have short outputs."""
    rng = np.random.default_rng(5)
    prompt = rng.integers(1, 4000, count)
    output = np.where(abs(prompt - 2000) < 800, rng.integers(300, 500, count), rng.integers(5, 60, count))
    arrival = np.cumsum(rng.gamma(0.7, 0.2, count))
    rows = zip(arrival - arrival[0], prompt, output, strict=True)
    return Trace("original.csv", tuple(TraceRequest(float(a), int(p), int(o)) for a, p, o in rows))


def columns(trace: Trace) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    frame = trace.frame()
    return np.diff(frame["arrival_s"].to_numpy()), frame["prompt_tokens"].to_numpy(), frame["output_tokens"].to_numpy()


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Kolmogorov-Smirnov distance."""
    grid = np.concatenate([a, b])
    return float(
        np.abs(
            np.searchsorted(np.sort(a), grid, "right") / len(a) - np.searchsorted(np.sort(b), grid, "right") / len(b)
        ).max()
    )


def test_a_sample_has_the_distributions_of_the_original() -> None:
    trace = original()
    sample = sample_trace(fit_trace(trace), 1000, seed=1)
    for real, drawn in zip(columns(trace), columns(sample), strict=True):
        assert distance(real, drawn) < 0.04
    _, prompt, output = columns(sample)
    middle = abs(prompt - 2000) < 600
    assert np.median(output[middle]) > 250
    assert np.median(output[~middle]) < 80


def test_same_seed_same_trace() -> None:
    fit = fit_trace(original())
    assert sample_trace(fit, 50, seed=3) == sample_trace(fit, 50, seed=3)
    assert sample_trace(fit, 50, seed=3) != sample_trace(fit, 50, seed=4)


@given(st.integers(1, 40), st.integers(0, 100))
def test_every_sample_is_a_valid_trace(count: int, seed: int) -> None:
    assert len(sample_trace(read_fit(SHIPPED / "azure-conv-fit.json"), count, seed=seed)) == count


def test_a_constant_trace_can_be_fitted() -> None:
    trace = Trace("same", tuple(TraceRequest(i / 2, 7, 3) for i in range(200)))
    drawn = sample_trace(fit_trace(trace), 20, seed=0)
    assert {(r.prompt_tokens, r.output_tokens) for r in drawn.requests} == {(7, 3)}
    assert drawn.rate == pytest.approx(2)


def test_fit_files(tmp_path: Path) -> None:
    fit = fit_trace(original())
    write_fit(fit, tmp_path / "fit.json")
    assert read_fit(tmp_path / "fit.json") == fit
    for text in ("", "[]", "{}", '{"source": 1, "requests": "x"}'):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(TraceError, match=r"bad\.json: not a trace fit"):
            read_fit(tmp_path / "bad.json")
    with pytest.raises(TraceError, match="cannot be read"):
        read_fit(tmp_path / "none.json")


def test_tables_check_themselves() -> None:
    fit = fit_trace(original())
    with pytest.raises(TraceError, match="gap_s has 1 entries"):
        replace(fit, gap_s=(1.0,))
    with pytest.raises(TraceError, match="prompt_tokens falls"):
        replace(fit, prompt_tokens=fit.prompt_tokens[::-1])
    with pytest.raises(TraceError, match="band_edges has"):
        replace(fit, band_edges=())
    with pytest.raises(TraceError, match="too few to fit"):
        fit_trace(original(20))


def test_shipped_trace_comes_from_its_fit() -> None:
    fit = read_fit(SHIPPED / "azure-conv-fit.json")
    assert sample_trace(fit, 1000, seed=2023).requests == read_trace(SHIPPED / "azure-conv-synthetic.csv").requests
