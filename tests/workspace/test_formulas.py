"""Which formulas a prediction may rest on."""

from dataclasses import replace
from pathlib import Path

import pytest

from dooly.database import Database, Environment, Point, Samples
from dooly.errors import FitError
from dooly.fit import fit_host
from dooly.workspace.formulas import fit_stored, observed

HERE = Environment.of(device="cpu")
PART = "host_dispatch"


def filled(path: Path, latencies_us: tuple[float, ...]) -> Database:
    database = Database(path)
    database.add_operation(PART, PART, f"pseudo operation {PART}")
    for index, latency_us in enumerate(latencies_us):
        claim = database.claim(PART, HERE, Point.of(N=10 * 4**index))
        assert claim is not None
        database.record_ok(claim, Samples((latency_us,) * 5))
    return database


def test_a_formula_that_misses_what_it_has_not_seen_is_not_used(tmp_path: Path) -> None:
    database = filled(tmp_path / "a.sqlite", (9000.0, 2.0, 7000.0))
    (stored,) = database.operations()
    fitted = fit_host(PART, observed(database, PART, HERE))
    assert fitted.held.mape > 1.0
    with pytest.raises(FitError, match="its formula misses points left out of the fit by"):
        fit_stored(database, stored, HERE)
    assert replace(fitted.held, mape=1.0).useless is None


def test_a_formula_that_holds_is(tmp_path: Path) -> None:
    database = filled(tmp_path / "a.sqlite", (20.0, 80.0, 320.0, 1280.0))
    (stored,) = database.operations()
    assert fit_stored(database, stored, HERE).held.useless is None
