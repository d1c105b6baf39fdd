"""Synthetic traces: tables reproduce the quantiles they were fitted to; the shipped trace comes from its fit."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dooly.errors import TraceError
from dooly.simulate.synthetic import fit_trace, read_fit, sample_trace, shipped_trace, write_fit
from dooly.simulate.trace import Trace, TraceRequest

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
    assert len(sample_trace(read_fit(SHIPPED / "azure-conv.json"), count, seed=seed)) == count


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


@pytest.mark.parametrize(
    ("name", "prompt", "output", "rate"),
    [("azure-code", 2047.8, 27.9, 2.57), ("azure-conv", 1154.7, 211.1, 5.53), ("mooncake", 12035.1, 342.6, 3.4)],
)
def test_shipped_traces_have_the_means_of_the_originals(name: str, prompt: float, output: float, rate: float) -> None:
    trace = shipped_trace(name)
    assert np.mean([r.prompt_tokens for r in trace.requests]) == pytest.approx(prompt, rel=0.01)
    assert np.mean([r.output_tokens for r in trace.requests]) == pytest.approx(output, rel=0.03)
    assert trace.rate == pytest.approx(rate, rel=0.25)
    assert shipped_trace(name) == trace


def test_shipped_lengths_need_arrivals() -> None:
    trace = shipped_trace("arxiv", 500)
    assert np.mean([r.prompt_tokens for r in trace.requests]) == pytest.approx(2588, rel=0.01)
    assert trace.duration_s == 0
    assert trace.fixed(4).duration_s == pytest.approx(499 / 4)
    assert trace.poisson(4, seed=1).rate == pytest.approx(4, rel=0.15)
    with pytest.raises(TraceError, match="no shipped trace 'azure'; there are azure-code, azure-conv"):
        shipped_trace("azure")


def test_shared_beginnings_are_drawn_too() -> None:
    """Half of the prompts begin as the one before, up to a block of their own; the others are new."""
    rows: list[TraceRequest] = []
    for i in range(400):
        old = rows[-1].prefix if rows and i % 2 else ()
        rows.append(TraceRequest(i / 10, 512 * (len(old) + 2), 5, (*old, 10 * i, 10 * i + 1)))
    sample = sample_trace(fit_trace(Trace("chains.jsonl", tuple(rows))), 400, seed=1)
    seen: set[tuple[int, ...]] = set()
    shared = 0
    for request in sample.requests:
        assert len(request.prefix) == -(-request.prompt_tokens // 512)
        shared += request.prefix[:2] in seen
        seen.add(request.prefix[:2])
    assert 150 < shared < 250


def test_the_mean_of_a_heavy_tail_is_kept() -> None:
    rng = np.random.default_rng(0)
    output = (1 + rng.pareto(1.5, 20_000) * 20).astype(int)
    trace = Trace("tail", tuple(TraceRequest(float(i), 100, int(o)) for i, o in enumerate(output)))
    drawn = [r.output_tokens for r in sample_trace(fit_trace(trace), 5000, seed=0).requests]
    assert np.mean(drawn) == pytest.approx(np.mean(output), rel=0.1)
