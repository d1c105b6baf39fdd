"""More work takes longer: a short run of ``benchmarks.surfaces``, and that it finds what is not so."""

import random
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import surfaces
from benchmarks.surfaces import pairs, surface, table
from dooly.batch import Batch


def test_the_second_step_of_a_pair_has_all_the_work_of_the_first_and_more():
    for first, second in islice(pairs(random.Random(0), (256, 8192), 4096), 500):
        one, other = first.symbols(), second.symbols()
        assert all(other[name] >= one[name] for name in one)
        assert other["S"] > one["S"]
        assert second.count <= 256
        assert second.tokens <= 8192
        assert max(new + cached for new, cached in second.requests) <= 4096


@pytest.mark.parametrize("gpu", surfaces.GPUS)
def test_more_work_is_not_predicted_faster(gpu):
    found = surface("llama-3.1-8b", gpu, 300)
    assert (found.tried, found.wrong, found.faster) == (300, 0, 0)
    assert "| 300 | 0 | 0 |" in table([found])


def test_what_gains_is_listed_with_its_cause(monkeypatch):
    """A model whose attention takes the less the more there is, and nothing where there is a prompt."""

    def attention_us(batch: Batch) -> float:
        return 0.0 if batch.symbols()["S"] > batch.tokens * 1000 else 1e9 / batch.symbols()["S"]

    def breakdown(batch: Batch):
        return SimpleNamespace(
            rows=[
                SimpleNamespace(name="attention_1", total_us=attention_us(batch)),
                SimpleNamespace(name="linear_1", total_us=5.0),
            ]
        )

    steps = SimpleNamespace(
        graphs=None,
        breakdown=breakdown,
        step_times=lambda batches: SimpleNamespace(total_us=np.array([attention_us(each) for each in batches])),
    )
    model = SimpleNamespace(device="NVIDIA H200", memory_bytes=141 * 2**30, steps=steps, config={})
    model.under = lambda *_: model
    monkeypatch.setattr(surfaces, "saved_model", lambda *_, **__: model)
    monkeypatch.setattr(surfaces, "check_step", lambda *_: None)
    found = surface("m", "h200", 100)
    assert found.wrong > 0
    assert found.faster > 25
    assert {cause.partition(" ")[0] for cause in found.causes} == {"attention_1"}
    assert sum(cause.count for cause in found.causes.values()) == found.faster
    assert "| m | h200 | attention_1 | " in table([found])
