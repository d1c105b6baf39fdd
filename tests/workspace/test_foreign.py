"""Predictions from what others measured: fitted where they measured, lent by the nearest shapes, ruled, and marked."""

from dataclasses import replace

import pytest

from dooly.batch import Batch
from dooly.cli import main
from dooly.errors import FitError, PredictError, ProfileError
from dooly.foreign.collectives import WIDTH
from dooly.hardware.environment import environment_for, stored_machine
from dooly.ir import Operation, parse_program
from dooly.ir.operation import Use
from dooly.ir.types import attributes
from dooly.passes import PIPELINE, run
from dooly.workspace import foreign
from dooly.workspace.fitted import fitted_key
from dooly.workspace.foreign import RULE, fit_foreign
from dooly.workspace.models import saved_from
from dooly.workspace.store import look_into
from tests.fit import laws
from tests.foreign import published

SOURCE = "aiconfigurator-core 0.12.0"
TEXT = """
graph "small" {
  config H = 512, Nq = 8, Nk = 2, D = 64
  request T
  captured 0
  %x = input() : bf16[T, H]
  %w = weight() : bf16[D*Nq + 2*D*Nk, H]
  %h = linear(%x, %w) : bf16[T, D*Nq + 2*D*Nk]
  %q, %k, %v = split(%h) {dim = 1} : bf16[T, D*Nq], bf16[T, D*Nk], bf16[T, D*Nk]
  %q.1 = reshape(%q) : bf16[T, Nq, D]
  %k.1 = reshape(%k) : bf16[T, Nk, D]
  %v.1 = reshape(%v) : bf16[T, Nk, D]
  %a = attention(%q.1, %k.1, %v.1) {ATTRIBUTES} : bf16[T, Nq, D]
  %s = silu(%a) : bf16[T, Nq, D]
  return %s
}
""".replace(
    "ATTRIBUTES",
    'backend = "FLASH_ATTN", causal = true, head_size = D, heads = Nq, kv_dtype = "bf16", kv_heads = Nk, '
    "sinks = false, soft_cap = none, window = none",
)


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """A database with what was published of an H200 and a B200."""
    folder = tmp_path_factory.mktemp("published")
    copy = published.wheel(folder / "copy.whl", {**published.tables(), **published.tables("h200_sxm")})
    assert main(["db", "import", "--foreign", "aiconfigurator", str(copy), "--db", str(folder / "own.db")]) == 0
    with look_into(str(folder / "own.db")) as known:
        yield known


def fitted(database, operation, platform="b200"):
    machine = stored_machine(database, platform)
    return fit_foreign(database, [operation], machine, (), lambda note: None).get(operation.signature)


def test_published_points_stand_beside_measured_ones_only_where_they_are_asked_for(database):
    own, asked, only = (stored_machine(database, name) for name in ("h200", "h200@aiconfigurator", "b200"))
    assert own.fact("source") == ""
    assert own.fact("driver")
    assert asked.fact("source") == only.fact("source") == SOURCE
    assert environment_for(laws.linear(512, 768), asked).source == SOURCE
    for name in ("h200@nobody", "a100", "a100@aiconfigurator"):
        with pytest.raises(ProfileError, match=f"nothing measured on {name} is stored.*--foreign"):
            stored_machine(database, name)


def test_what_the_source_measured_follows_its_points(database):
    formula = fitted(database, laws.linear(1024, 2048))  # of depth 1024
    assert formula is not None
    assert (formula.source, formula.lenders) == (SOURCE, 0)
    for rows in (3, 48, 3000):
        assert formula.predict_one({"T": rows})[0] == pytest.approx(1e3 * published.gemm_ms(rows, 2048, 1024), rel=0.1)


def test_a_shape_that_it_did_not_measure_is_lent_by_the_nearest(database):
    formula = fitted(database, laws.linear(3000, 3000))
    assert formula is not None
    assert (formula.source, formula.lenders) == (SOURCE, len(published.SHAPES))
    for rows in (1, 64, 4096):
        assert formula.predict_one({"T": rows})[0] == pytest.approx(1e3 * published.gemm_ms(rows, 3000, 3000), rel=0.15)


def test_a_time_that_jumps_out_does_not_bend_the_formula(tmp_path):
    rows = published.gemm()
    wrong = [dict(row) for row in rows]
    for row in wrong:
        if (row["m"], row["n"], row["k"]) == (128, 2048, 1024):
            row["latency"] *= 6.0
    found = []
    for name, content in (("right", rows), ("wrong", wrong)):
        files = {f"{published.DATA}/b200_sxm/gemm/vllm/0.24.0/gemm_perf.parquet": published.parquet(content)}
        copy = published.wheel(tmp_path / f"{name}.whl", {**published.tables(), **files})
        location = str(tmp_path / f"{name}.db")
        assert main(["db", "import", "--foreign", "aiconfigurator", str(copy), "--db", location]) == 0
        with look_into(location) as known:
            found.append(fitted(known, laws.linear(1024, 2048)))
    right, bent = found
    for size in (1, 32, 64, 128, 256, 1024):
        assert bent.predict_one({"T": size})[0] == pytest.approx(right.predict_one({"T": size})[0], rel=0.1)


def test_a_collective_of_any_width_is_that_of_as_many_bytes(database):
    texts = [each for each in database.operations() if each.target == "all_reduce" and f"[T, {WIDTH}]" in each.text]
    (narrow,) = [each.parsed() for each in texts]
    rows = replace(narrow.operands[0], shape=(narrow.operands[0].shape[0], narrow.operands[0].shape[1] * 32))
    wide = Operation("all_reduce", (rows,), (rows,), attributes(group="tp", ranks=2))
    of_wide, of_narrow = fitted(database, wide), fitted(database, narrow)
    assert of_wide is not None
    assert of_narrow is not None
    for size in (1, 64, 4096):
        expected = of_narrow.predict_one({"T": 32 * size})[0]
        assert of_wide.predict_one({"T": size})[0] == pytest.approx(expected, rel=0.1)
    assert WIDTH * 32 == 4096
    of_four = Operation("all_reduce", (rows,), (rows,), attributes(group="tp", ranks=4))
    assert fitted(database, of_four) is None


def test_what_it_did_not_measure_is_bytes_at_its_bandwidth_and_is_marked(database):
    formula = fitted(database, laws.norm(512, Use("m", "norm", 1)))
    assert formula is not None
    assert formula.source == RULE
    launch, bandwidth = (parameter.value for parameter in formula.parameters)
    assert 1.0 < launch < 10.0
    assert bandwidth == pytest.approx(published.GBS, rel=0.1)
    small, large = (formula.predict_one({"T": size}) for size in (1, 65536))
    assert small[0] == pytest.approx(launch, rel=0.05)
    assert large[0] == pytest.approx(launch + formula_bytes(formula, 65536) / bandwidth / 1e3, rel=0.01)
    assert small[1]  # extrapolated, wherever it is asked


def formula_bytes(formula, rows):
    return float(formula.bytes.subs(dict.fromkeys(formula.bytes.free_symbols, rows)))


def test_every_row_of_a_step_says_what_it_rests_on(database):
    machine = stored_machine(database, "b200")
    saved = saved_from(database, run(parse_program(TEXT), PIPELINE), machine, fit_missing=True)
    rows = saved.steps.breakdown(Batch.alike([(1, 512, 4)])).rows
    sources = {row.kind: row.source for row in rows}
    assert sources["gemm"] == sources["attention"] == SOURCE
    assert RULE in sources.values()
    assert sources["host"].startswith("host of an NVIDIA H200")
    assert saved.sources[:2] == (SOURCE, RULE)
    assert saved.device == "NVIDIA B200"
    unknown = parse_program(TEXT.replace("FLASH_ATTN", "WAVE_ATTN").replace("[T, Nq, D]", "[T, Nq*D]"))
    with pytest.raises(PredictError, match="no formula of attention"):
        saved_from(database, run(unknown, PIPELINE), machine, fit_missing=True)


def test_formulas_of_what_dooly_measured_do_not_change_beside_it(database):
    machine = stored_machine(database, "h200")
    with look_into("sqlite://") as nothing:
        assert fitted_key(nothing, [laws.linear(512, 768)], machine, ()) == fitted_key(
            database, [laws.linear(512, 768)], machine, ()
        )


def test_a_part_of_host_time_that_cannot_be_fitted_is_said(database, monkeypatch):
    def refuse(_database, stored, _place):
        raise FitError(f"{stored.signature}: too few points")

    monkeypatch.setattr(foreign, "fit_stored", refuse)
    said = []
    found = fit_foreign(database, [laws.linear(1024, 2048)], stored_machine(database, "b200"), (), said.append)
    assert list(found) == [laws.linear(1024, 2048).signature]
    assert any("host_before is not fitted: host_before: too few points" in line for line in said)
