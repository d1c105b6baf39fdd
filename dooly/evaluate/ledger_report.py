"""The ledger of what ships with dooly, as tables and as one document."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dooly.database.exchange import read_parquet
from dooly.evaluate.grid_errors import Track, grid_errors
from dooly.evaluate.ledger import Ledger, by_operation, make_ledger, with_backends
from dooly.hardware.backends import offered
from dooly.hardware.environment import at_home
from dooly.host import is_host_part
from dooly.report import Column, Table
from dooly.workspace.shipped import MEASURED, evaluation, measured_models, measured_on, measurements

__all__ = ["LedgerReport", "ledger_of"]

_SECONDS = (
    Column("model", "model"),
    Column("tp", "TP", "d"),
    Column("operations", "operations", ",d"),
    Column("new", "new", ",d"),
    Column("unmeasured", "without", ",d"),
    Column("grid_points", "grid (points)", ",d"),
    Column("measured_s", "measured (s)", ",.1f"),
    Column("extrapolated_s", "+ counted (s)", ",.1f"),
    Column("deduplicated_s", "deduplicated (s)", ",.1f"),
    Column("sweep_points", "sweep (points)", ",d"),
    Column("sweep_s", "sweep (s)", ",.1f"),
    Column("saved_percent", "saved (%)", ".1f"),
)
_TIMES = (
    Column("kind", "kind"),
    Column("seconds", "each (s)", ".4f"),
    Column("source", "from"),
    Column("points", "measured (points)", ",d"),
)
_ERRORS = (
    Column("operation", "operation"),
    Column("held_out_points", "held-out (points)", ",d"),
    Column("outside_grid", "outside the grid", ",d"),
    Column("grid_points", "grid (points)", ",d"),
    Column("grid_median_percent", "median (%)", ".1f"),
    Column("grid_mean_percent", "mean (%)", ".1f"),
    Column("sweep_points", "sweep (points)", ",d"),
    Column("sweep_median_percent", "median (%)", ".1f"),
    Column("sweep_mean_percent", "mean (%)", ".1f"),
    Column("grid_own_percent", "on the grid: grid (%)", ".1f"),
    Column("sweep_on_grid_percent", "on the grid: sweep (%)", ".1f"),
)


@dataclass(frozen=True)
class LedgerReport:
    """A ledger with the errors of both ways.

    Attributes:
        errors: rows of `grid_errors`; empty if no operation was measured both ways, or nobody asked.
    """

    platform: str
    backends: Sequence[str]
    ledger: Ledger
    errors: Sequence[Mapping[str, Any]]

    def document(self) -> dict[str, Any]:
        """Plain dictionaries, lists and numbers."""
        found = self.ledger
        return {
            "platform": self.platform,
            "backends": list(self.backends),
            "models": [
                {**asdict(row), "grid_s": row.grid_s, "saved_percent": _saved(row.sweep_s, row.grid_s)}
                for row in found.rows
            ],
            "total": {
                "grid_s": found.grid_s,
                "deduplicated_s": found.deduplicated_s,
                "sweep_s": found.sweep_s,
                "elsewhere_s": found.elsewhere_s,
                "saved_by_deduplication_percent": _saved(found.deduplicated_s, found.grid_s),
                "saved_by_sweep_percent": _saved(found.sweep_s, found.grid_s),
            },
            "point_times": {kind.value: asdict(each) for kind, each in found.point_times.items()},
            "held_out": list(self.errors),
        }

    def tables(self) -> Iterator[Table]:
        """For people."""
        document = self.document()
        total = document["total"]
        yield Table(
            f"{self.platform}, {len(self.ledger.rows)} models in this order, {', '.join(self.backends)}: the sweep "
            f"took {total['sweep_s']:,.0f} s instead of {total['grid_s']:,.0f} s of a fixed grid model by model "
            f"(-{total['saved_by_sweep_percent']:.1f} %); deduplication alone: {total['deduplicated_s']:,.0f} s "
            f"(-{total['saved_by_deduplication_percent']:.1f} %)",
            _SECONDS,
            document["models"],
            "new: operations that no model above has; the sweep's seconds are theirs, those of the grid are of all. "
            "without: operations without a measured point, on neither side. "
            f"Of the sweep, {total['elsewhere_s']:,.1f} s went into operations of none of these models and backends; "
            "what the host's time took to measure is not counted.",
        )
        yield Table(
            "seconds of a counted point of the grid",
            _TIMES,
            [{"kind": kind, **each} for kind, each in document["point_times"].items()],
        )
        if self.errors:
            yield Table(
                "held-out error of formulas fitted on the fixed grid and on the sweep, operations measured both ways",
                _ERRORS,
                self.errors,
                "On the grid's own points (means) formulas of the grid are judged by leaving points out, those of the "
                "sweep by all points that they were not fitted to.",
            )


def _saved(part: float, whole: float) -> float:
    return 100.0 * (1.0 - part / whole) if whole else 0.0


def ledger_of(platform: str, backend: str | None = None, *, errors: bool = True, track: Track = iter) -> LedgerReport:
    """The ledger of one GPU whose measurements ship.

    Args:
        backend: of attention; all if None.
        errors: whether to fit the points of both ways and judge them.
        track: called with the operations that are fitted.

    Raises:
        DatabaseError: no measurements of this GPU ship, or a file is damaged.
    """
    shipped = measurements(platform)
    program = measured_models()
    backends = offered(platform) if backend is None else (backend,)
    models = [(name, tp, with_backends(program.for_model(name), backends)) for name, tp in MEASURED]
    found = at_home(read_parquet(shipped), measured_on(platform))
    sweep = by_operation(record for record in found if not is_host_part(record.operation.target))
    grid, held_out = (
        by_operation(read_parquet(path)) if path.exists() else {}
        for path in (evaluation(platform, what) for what in ("vidur-grid", "heldout"))
    )
    operations = {each.signature: each for _, _, mine in models for each in mine}
    judged = grid_errors(list(operations.values()), sweep, grid, held_out, track) if errors else []
    return LedgerReport(platform, backends, make_ledger(models, sweep, grid), judged)
