"""Write docs/results/validation-tables.md from the recordings that ship: python scripts/validation_page.py"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dooly.evaluate import Validation
from dooly.evaluate.recording import Recording, load_recording
from dooly.evaluate.replay import recorded_platform, replayed
from dooly.files import write_text
from dooly.report import Column, Table, markdown
from dooly.workspace.defaults import DATABASE
from dooly.workspace.shipped import DATA

__all__ = ["main"]

PAGE = Path(__file__).resolve().parent.parent / "docs" / "results" / "validation-tables.md"

HEAD = """# Predicted beside measured: tables

Written by `make reports` from the recordings that ship, as `dooly validate --recording FILE` prints them one by one;
[validation.md](validation.md) says how they were made and what the errors are.

Each trace was served three times with asynchronous scheduling and once with synchronous. Noise: mean error over
requests of one pass against the mean of the others. Traces: *4* is 40 requests of azure-conv, 4 a second; *long* 8
requests of arxiv, 1.5 a second; *16* 110 requests of azure-conv, 16 a second. *Own process*: the engine core in a
process of its own, whose steps cannot be seen. *TP 2*: over two GPUs, a process for each beside that one. *16 cores*: a
machine of so many, whose host time was measured for itself.

## Recordings
"""

_CORES = "32"
"""Of nearly all machines; those of others are named."""

_LABELS = {"azure-conv:40@4": "4", "arxiv:8@1.5": "long", "azure-conv:110@16": "16"}
_WHERE = (Column("gpu", "GPU"), Column("model", "model"), Column("backend", "backend"))
_CASE = (*_WHERE, Column("trace", "trace"))
_METRICS = {"ttft": "TTFT", "tpot": "TPOT", "e2e": "end to end"}
_CLASSES = (
    ("decode", "FULL"),
    ("mixed", "PIECEWISE"),
    ("mixed", "NONE"),
)

Row = dict[str, Any]


def main() -> int:
    """Write the page."""
    paths = sorted((DATA / "recorded").glob("*.json.gz"))
    recordings = [load_recording(path) for path in paths]
    results = [(each, replayed(each, DATABASE)) for each in recordings]
    write_text(PAGE, "\n".join(_page(paths, results)))
    return 0


def _page(paths: list[Path], results: list[tuple[Recording, list[Validation]]]) -> Iterator[str]:
    yield HEAD
    facts = (Column("file", "file"), *_WHERE, Column("engine", "engine"), Column("date", "date"))
    recorded = [
        {**_where(recording), **dict(recording.facts), "file": path.name.partition(".json")[0]}
        for path, (recording, _) in zip(paths, results, strict=True)
    ]
    for row in recorded:
        row["date"] = row["date"][:10]
    yield markdown(Table("", facts, recorded))
    asynchronous, synchronous = (
        [(recording, each) for recording, found in results for each in found if each.scheduling == scheduling]
        for scheduling in ("async", "sync")
    )
    errors = [
        Column(f"{metric}{what}", f"{name}{words}", ".1f")
        for metric, name in _METRICS.items()
        for what, words in (("", ""), ("_noise", ", noise"))
    ]
    shares = [
        Column(f"{metric}_{part}", f"{_METRICS[metric]} {words}", "+.1f")
        for metric in ("ttft", "tpot")
        for part, words in (("p50", "median"), ("p90", "90 %"), ("p99", "99 %"))
    ]
    steps = [
        Column(f"{kind}_{mode}{part}", f"{kind}, {mode}{words}", ".1f")
        for kind, mode in _CLASSES
        for part, words in (("", ""), ("_p90", ", 90 %"))
    ]
    latencies = [_latencies(recording, each) for recording, each in asynchronous]
    tables = (
        ("## Latencies, asynchronous\n\nOver requests: mean absolute error in percent.", errors, latencies),
        ("Error of the median, 90th and 99th percentile over requests, in percent.", shares, latencies),
        (
            "## Single steps, asynchronous\n\nTime from calling the model, or the end of the step before, to its last "
            "kernel: median error and 90th percentile, in percent.",
            steps,
            [_steps(recording, each, "device") for recording, each in asynchronous if each.steps],
        ),
        (
            "## Synchronous\n\nOne pass each, so no noise: mean error of TTFT and TPOT over requests, and median error "
            "of whole steps, in percent.",
            (errors[0], errors[2], *steps[0::2]),
            [{**_latencies(recording, each), **_steps(recording, each, "total")} for recording, each in synchronous],
        ),
    )
    for title, columns, rows in tables:
        yield markdown(Table(title, (*_CASE, *columns), rows))


def _where(recording: Recording) -> Row:
    platform = recorded_platform(recording).upper()
    facts = dict(recording.facts)
    apart = f", TP {recording.tp}" if recording.tp > 1 else ""
    apart += ", own process" if facts["engine core"] == "own process" else ""
    apart += f", {facts['cores']} cores" if facts["cores"] != _CORES else ""
    return {"gpu": platform, "model": recording.model, "backend": f"{recording.backend}{apart}"}


def _latencies(recording: Recording, found: Validation) -> Row:
    row: Row = {**_where(recording), "trace": _LABELS.get(found.trace, found.trace)}
    for each in found.requests:
        row |= {each.metric: each.mape_percent, f"{each.metric}_noise": each.noise_percent}
        row |= {f"{each.metric}_{part}": getattr(each, f"{part}_error_percent") for part in ("p50", "p90", "p99")}
    return row


def _steps(recording: Recording, found: Validation, part: str) -> Row:
    row: Row = {**_where(recording), "trace": _LABELS.get(found.trace, found.trace)}
    there: Mapping[tuple[str, str], Any] = {(s.kind, s.mode): s for s in found.steps if s.part == part}
    for kind, mode in _CLASSES:
        step = there.get((kind, mode))
        row[f"{kind}_{mode}"] = None if step is None else step.error_percent
        row[f"{kind}_{mode}_p90"] = None if step is None else step.error_p90_percent
    return row


if __name__ == "__main__":
    sys.exit(main())
