import pytest
from hypothesis import given
from hypothesis import strategies as st

from dooly.adapters.grid import Outside
from dooly.adapters.vidur.slots import Slots
from dooly.batch import Batch
from dooly.predict import SavedModel
from tests.adapters.conftest import LAYERS, mixture, saved

pairs = st.lists(st.tuples(st.integers(1, 300) | st.just(1), st.integers(0, 1500)), min_size=1, max_size=20)


@pytest.fixture(scope="module")
def mixed() -> SavedModel:
    return saved("moe", mixture("moe"), E=8, K=2)


def vidur_total_ms(fields: tuple[float, ...]) -> float:
    """Vidur's own sum: TP communication twice a layer, then what a step has once."""
    layers, *rest = fields
    layer, per_step = rest[:13], rest[13:]
    return layers * (sum(layer) + layer[12]) + sum(per_step)


@given(pairs, st.booleans())
def test_the_total_is_the_step_time(mixed: SavedModel, requests: list[tuple[int, int]], cpu_fields: bool) -> None:
    fields = Slots(mixed, cpu_fields).fields(tuple(requests))
    assert len(fields) == (20 if cpu_fields else 15)
    assert min(fields) >= -1e-9
    assert vidur_total_ms(fields) == pytest.approx(mixed.steps.step_time(Batch.of(*requests)).total_us / 1e3, rel=1e-9)


def test_fields_hold_their_operations(model: SavedModel) -> None:
    batch = Batch.of((100, 0))
    rows = {row.name: row.total_us for row in model.steps.breakdown(batch).rows}
    by_path = {use.path: rows[op.name] for op in model.operations for use in op.uses}
    fields = Slots(model, cpu_fields=False).fields(batch.requests)
    for field, path in ((5, "self_attn.qkv_proj"), (6, "self_attn.o_proj"), (7, "mlp.gate_up_proj")):
        assert fields[field] * LAYERS * 1e3 == pytest.approx(by_path[f"model.layers.0.{path}"])
    attention = by_path["model.layers.0.self_attn.attn"]
    assert (fields[3], fields[4] * LAYERS * 1e3) == (0.0, pytest.approx(attention))


def test_attention_of_a_mixed_step_is_divided(model: SavedModel) -> None:
    slots = Slots(model, cpu_fields=True)
    decode, prefill, mixed = (((1, 500),) * 8, ((200, 0),), ((200, 0), *((1, 500),) * 8))
    (_, _, _, _, prefill_only), (_, _, _, decode_only, none), both = (
        slots.fields(requests)[:5] for requests in (prefill, decode, mixed)
    )
    assert none == 0.0
    assert both[3] / both[4] == pytest.approx(decode_only / prefill_only)


def test_experts_and_their_router_count_as_up_projection(mixed: SavedModel) -> None:
    fields = Slots(mixed, cpu_fields=True).fields(((64, 0),))
    rows = mixed.steps.breakdown(Batch.of((64, 0))).rows
    paths = {op.name: {use.path.split(".")[-1] for use in op.uses} for op in mixed.operations}
    moe = sum(row.total_us for row in rows if paths.get(row.name, set()) & {"gate", "experts"})
    assert fields[7] * LAYERS * 1e3 == pytest.approx(moe)


def test_steps_outside_the_measured_sizes_are_counted(model: SavedModel) -> None:
    slots = Slots(model, cpu_fields=True)
    slots.fields(((1, 100),))
    assert slots.outside.message("small") == ""
    slots.fields(((9000, 0), (1, 20)))
    assert slots.outside == Outside(2, 1, 9001, 2, 9000, 21)
    assert slots.outside.message("small") == (
        "1 of 2 steps lay outside the sizes that were measured (up to 9001 tokens, 2 requests, contexts 21 to 9000); "
        "`dooly profile small --max-tokens 9001 --max-requests 2 --max-context 9000` reaches as far"
    )


def test_ranks_tell_each_other_twice_a_layer(ranks: SavedModel) -> None:
    requests = ((64, 0), (1, 500))
    rows = {row.name: row.total_us for row in ranks.steps.breakdown(Batch.of(*requests)).rows}
    (reduce,) = [op for op in ranks.operations if op.target == "all_reduce"]
    in_layers = rows[reduce.name] * 2 * LAYERS / (2 * LAYERS + 1)
    fields = Slots(ranks, cpu_fields=True).fields(requests)
    assert 2 * fields[13] * LAYERS * 1e3 == pytest.approx(in_layers)
    assert vidur_total_ms(fields) == pytest.approx(ranks.steps.step_time(Batch.of(*requests)).total_us / 1e3)
