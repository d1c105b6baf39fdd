"""Formulas that are fitted once: those of bundled models ship, and those fitted for this user before are kept.

A key stands for all that decides them: operations, machine, points and code.  Where one of these changes, they are
fitted again.
"""

import json
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

import polars as pl

from dooly.database import Known, PointSource
from dooly.errors import DoolyError
from dooly.files import write_text
from dooly.fit import Formula
from dooly.fit.store import from_json, to_json
from dooly.hardware.gpus import PLATFORMS
from dooly.hardware.machine import Machine
from dooly.ir import Operation
from dooly.workspace import captures
from dooly.workspace.digest import digest, files_digest, meaning_digest, source_digest
from dooly.workspace.foreign import fit_foreign
from dooly.workspace.formulas import fit_missing
from dooly.workspace.shipped import DATA

__all__ = ["FITTED", "Fitted", "fit_once", "fitted_key", "is_current", "shipped", "write_fitted"]

_log = logging.getLogger(__name__)

FITTED = DATA / "formulas" / "fitted.parquet"

_CODE = ("batch.py", "database", "fit", "hardware", "host.py", "ir", "workspace/formulas.py", "workspace/transfer.py")
"""Parts of dooly that decide what a fit gives."""


@dataclass(frozen=True)
class Fitted:
    """Formulas by signature, and what is to be said of them."""

    formulas: Mapping[str, Formula]
    notes: Sequence[str]

    @classmethod
    def now(
        cls, database: PointSource, operations: Sequence[Operation], machine: Machine, known: Collection[str]
    ) -> Self:
        """Fit what `fit_missing` does, or `fit_foreign` of a machine that others measured."""
        notes: list[str] = []
        fit = fit_foreign if machine.fact("source") else fit_missing
        return cls(fit(database, operations, machine, known, notes.append), notes)

    @classmethod
    def read(cls, text: str) -> Self:
        """Inverse of `json`.

        Raises:
            FitError: a formula is damaged.
            ValueError, TypeError, KeyError: the text is something else.
        """
        content: dict[str, Any] = json.loads(text)
        formulas = map(from_json, content["formulas"])
        return cls({each.signature: each for each in formulas}, [str(each) for each in content["notes"]])

    @property
    def json(self) -> str:
        """One JSON document."""
        return json.dumps({"notes": list(self.notes), "formulas": [to_json(each) for each in self.formulas.values()]})


def fit_once(
    database: PointSource, operations: Sequence[Operation], machine: Machine, known: Collection[str]
) -> dict[str, Formula]:
    """Formulas that `fit_missing` gives, fitted only where they do not ship and were not fitted before."""
    key = fitted_key(database, operations, machine, known)
    found = _at_hand(key)
    if found is None:
        found = Fitted.now(database, operations, machine, known)
        path = _kept_at(key)
        with suppress(OSError, DoolyError):  # a folder that cannot be written costs time only
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, found.json)
    for note in found.notes:
        _log.info(note)
    return dict(found.formulas)


def fitted_key(database: PointSource, operations: Sequence[Operation], machine: Machine, known: Collection[str]) -> str:
    """Digest of all that decides the formulas, but for the code."""
    signatures = [each.signature for each in operations]
    rules = meaning_digest("workspace/foreign.py") if machine.fact("source") else ""
    return digest([signatures, repr(machine), _points(database, machine), sorted(known), *filter(None, [rules])])


def _points(database: PointSource, machine: Machine) -> list[object]:
    """The state of all points that may decide what a GPU takes: the files', and the database's own of any GPU.

    What others published counts only for the machine that it is of.
    """
    files = database.files if isinstance(database, Known) else ()
    own = database.own if isinstance(database, Known) else database
    published = machine.fact("source"), machine.platform
    homes = [
        each
        for each in own.environments()
        if (gpu := PLATFORMS.get(platform := str(each.get("platform"))))
        and gpu.is_cuda
        and (not each.source or (each.source, platform) == published)
    ]
    rows = [[row.environment, row.signature, row.status, row.points, row.cost_s] for row in own.summary(homes)]
    return [files_digest(files), rows]


def _at_hand(key: str) -> Fitted | None:
    """Formulas that ship, or else those that were kept; None where there are neither, or they are damaged."""
    if (found := shipped(key)) is not None:
        return found
    with suppress(OSError, DoolyError, ValueError, TypeError, KeyError):
        return Fitted.read(_kept_at(key).read_text(encoding="utf-8"))
    return None


def _kept_at(key: str) -> Path:
    return captures.CACHE / "formulas" / f"{digest([_code(), key])}.json"


def shipped(key: str) -> Fitted | None:
    """Formulas that ship; None where there are none of this key, or they were fitted by other code."""
    if not is_current():
        return None
    found = pl.scan_parquet(FITTED).filter(pl.col("key") == key).select("formulas").collect()
    return None if found.is_empty() else Fitted.read(str(found.item()))


def is_current() -> bool:
    """Whether the formulas that ship were fitted by the present code."""
    return _shipped_code().get("meaning") == _code()


@cache
def _code() -> str:
    """Digest of the code that decides what a fit gives; read of it as text where that is the text that shipped."""
    shipped = _shipped_code()
    return shipped["meaning"] if shipped.get("source") == source_digest(*_CODE) else meaning_digest(*_CODE)


@cache
def _shipped_code() -> Mapping[str, str]:
    with suppress(OSError, pl.exceptions.PolarsError):
        return pl.read_parquet_metadata(FITTED)
    return {}


def write_fitted(formulas: Iterable[tuple[str, Fitted]]) -> None:
    """Write what ships: formulas by `fitted_key`, with digests of the code that fitted them."""
    frame = pl.DataFrame([(key, found.json) for key, found in formulas], schema=["key", "formulas"], orient="row")
    code = {"source": source_digest(*_CODE), "meaning": meaning_digest(*_CODE)}
    FITTED.parent.mkdir(exist_ok=True)
    frame.write_parquet(FITTED, compression="zstd", compression_level=19, statistics=False, metadata=code)
