"""A GPU that was measured without rests, beside a rested one of the same chip."""

from dataclasses import replace

import pytest

from dooly.cli.output import tell_notes
from dooly.database import Database, Point, Samples
from dooly.hardware.environment import environment_for, host_environment
from dooly.hardware.machine import Machine
from dooly.host import POWER_LIMIT
from dooly.ir import Program
from dooly.ir.operation import Operation, Use
from dooly.ir.types import attributes
from dooly.workspace import formulas
from dooly.workspace.transfer import lent_host_parts, lent_products
from tests.fit import laws

PRODUCT, NORM = laws.linear(512, 768, Use("m", "qkv", 1)), laws.norm(512, Use("m", "norm", 1))
SOFTWARE = (("cublas", "13.1"), ("cuda", "13.0"), ("driver", "580"), ("nccl", "2.28"), ("processor", "Xeon"))
RESTED = (("clocks", "rested"), *SOFTWARE)
H100 = Machine(
    platform="h100",
    host="vm",
    device="NVIDIA H100",
    isa="sm_90",
    threads=16,
    cache_bytes=0,
    memory_bytes=80 << 30,
    torch="2.11.0",
    engine="vllm 0.26.0",
    python="3.12.3",
    block_size=16,
    mode="graph",
    facts=SOFTWARE,
)
H200 = replace(H100, platform="h200", device="NVIDIA H200", facts=RESTED)
OWN = {8: 10.0, 256: 20.0, 512: 35.0, 1024: 60.0}
RESTED_US = {8: 7.0, 512: 30.0, 640: 40.0, 1024: 50.0}


@pytest.fixture
def database(tmp_path):
    found = Database(tmp_path / "latency.db")
    yield found
    found.close()


def store(database, operation, environment, times, axis="T", **sizes):
    host = isinstance(operation, str)
    signature = operation if host else operation.signature
    text = signature if host else str(Program((), (operation,)))
    database.add_operation(signature, signature if host else operation.target, text)
    for size, us in times.items():
        claim = database.claim(signature, environment, Point.of(**{axis: size}, **sizes))
        if claim is not None:
            database.record_ok(claim, Samples((us,)))


def products(database, here, *there, theirs=RESTED_US):
    """Rows and times of what `here` would take of the product; empty if it is its own."""
    for place, times in ((here, OWN), *((each, theirs) for each in there)):
        store(database, PRODUCT, environment_for(PRODUCT, place), times)
        store(database, NORM, environment_for(NORM, place), times)
    lent = lent_products(database, [PRODUCT, NORM], here)
    assert set(lent) <= {PRODUCT}  # what the memory bounds is not lent
    return {dict(each.sizes)["T"]: each.latency_us for each in lent.get(PRODUCT, ())}


def test_products_of_many_rows_are_a_rested_gpus_and_take_a_little_longer(database):
    expected = {8: 10.0, 256: 20.0, 512: 35.0, 640: 1.03 * 40.0, 1024: 1.03 * 50.0}
    assert products(database, H100, H200) == pytest.approx(expected)


def test_a_rested_gpu_lends_though_one_without_rests_is_stored_too(database):
    unrested = replace(H200, facts=SOFTWARE)
    assert products(database, H100, unrested, H200)[1024] == pytest.approx(1.03 * 50.0)


@pytest.mark.parametrize(
    ("here", "there"),
    [
        (H200, H100),
        (replace(H100, facts=RESTED), H200),
        (H100, replace(H200, facts=SOFTWARE)),
        (H100, replace(H200, facts=(("clocks", "rested"), ("cublas", "13.2"), *SOFTWARE[1:]))),
        (H100, replace(H200, torch="2.12.0")),
    ],
    ids=["the other way round", "both rested", "neither rested", "other library", "other torch"],
)
def test_products_are_not_lent(database, here, there):
    assert products(database, here, there) == {}


@pytest.mark.parametrize("theirs", [{640: 40.0}, {513: 30.0, 520: 31.0}, {8: 7.0}], ids=["shorter", "short", "none"])
def test_what_reaches_less_far_is_not_lent(database, theirs):
    assert products(database, H100, H200, theirs=theirs) == {}


def host_parts(database):
    store(database, "host_between", host_environment(H200), {1: 1500.0, 8: 1500.0, 64: 1500.0}, "R")
    for count in (8, 24):
        store(database, "host_experts", host_environment(H200), dict.fromkeys((1, 8, 64), 1500.0 * count), "R", N=count)
    store(database, POWER_LIMIT, host_environment(H200), {10_000: 10_000.0, 20_000: 20_100.0, 40_000: 41_000.0}, "U")
    store(database, "host_between", host_environment(H100), {1: 1000.0, 8: 1000.0, 64: 1000.0}, "R")


def test_the_host_of_another_gpu_lends_what_was_not_measured_here(database):
    host_parts(database)
    there, known = host_environment(H200), ["host_between"]
    assert lent_host_parts(database, known, H100, rested=True) == {"host_experts": there, POWER_LIMIT: there}
    assert lent_host_parts(database, known, H100, rested=False) == {"host_experts": there}
    for nothing in ([], [POWER_LIMIT]):  # this host was not measured
        assert not lent_host_parts(database, nothing, H100, rested=True)
    assert not lent_host_parts(database, [*known, "host_experts", POWER_LIMIT], H100, rested=True)
    assert not lent_host_parts(database, known, replace(H100, threads=99), rested=True)  # not such a host
    assert not lent_host_parts(database, known, H200, rested=True)


def test_a_host_of_another_size_lends_what_no_nearer_one_has(database):
    host_parts(database)
    larger = replace(H200, facts=(*RESTED, ("cores", "64")))
    for part in ("host_experts", "host_flashinfer"):
        sizes = {"N": 8} if part == "host_experts" else {}
        store(database, part, host_environment(larger), {1: 2000.0, 8: 2000.0, 64: 2000.0}, "R", **sizes)
    near, far = host_environment(H200), host_environment(larger)
    lent = lent_host_parts(database, ["host_between"], H100, rested=False)
    assert lent == {"host_experts": near, "host_flashinfer": far}
    known = ["host_between", "host_experts"]
    assert lent_host_parts(database, known, H200, rested=False) == {"host_flashinfer": far}


def test_predictions_are_the_same_before_and_after_formulas_are_stored(database, capsys):
    tell_notes()
    host_parts(database)
    sizes = (8, 64, 256, 512, 768, 1024, 2048)
    store(database, PRODUCT, environment_for(PRODUCT, H100), {size: 5.0 + 0.05 * size for size in sizes})
    store(database, PRODUCT, environment_for(PRODUCT, H200), {size: 5.0 + 0.04 * size for size in sizes})
    first = formulas.fit_missing(database, [PRODUCT], H100, {})
    assert set(first) == {PRODUCT.signature, "host_between", "host_experts", POWER_LIMIT}
    said = capsys.readouterr().err
    assert "note: 1 products of many rows are those of a rested GPU" in said
    assert "host_experts, power_limit: not measured here, those of an NVIDIA H200" in said
    (stored,) = (each for each in database.operations() if each.signature == PRODUCT.signature)
    own = formulas.fit_stored(database, stored, environment_for(PRODUCT, H100))
    again = formulas.fit_missing(database, [PRODUCT], H100, {own.signature: own})
    assert again[own.signature] == first[own.signature]
    assert first[own.signature].predict_one({"T": 1024.0})[0] < 0.9 * own.predict_one({"T": 1024.0})[0]


def test_collectives_of_more_ranks_are_not_predicted_from_those_of_fewer(database):
    def all_reduce(width, ranks):
        rows = (laws.tensor("T", width),)
        return Operation("all_reduce", rows, rows, attributes(group="tp", ranks=ranks), uses=(Use("m", "reduce", 1),))

    measured = [all_reduce(256 * place, 2) for place in range(1, 7)]
    for operation in measured:
        times = {size: 3.0 + size / 100 for size in (1, 8, 64, 512, 1024, 2048, 4096)}
        store(database, operation, environment_for(operation, H200), times)
    wanted = all_reduce(1024, 4)
    found = formulas.fit_missing(database, [measured[0], wanted], H200, {})
    assert set(found) == {measured[0].signature}
