"""Runs of the real engine as one small file, from which predictions are validated where there is no such machine.

Compressed JSON.  Batches are kept as spans, so the order of the requests within a step is lost (times do not depend on
it); times are kept to a tenth of a microsecond.
"""

import gzip
import json
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

from dooly.batch import Batch
from dooly.engine.settings import EngineSettings
from dooly.evaluate.spans import from_spans, to_spans
from dooly.files import read_gzip, write_bytes
from dooly.simulate.reading import check_format, finite, named, reading, whole
from dooly.simulate.records import RequestRecord, Run, StepRecord

__all__ = ["Recording", "load_recording", "save_recording"]

FORMAT = "dooly-recording 1"
_TIMES = ("host_before_us", "device_us", "host_after_us", "total_us", "launch_us")


@dataclass(frozen=True)
class Recording:
    """Runs of one model on one machine.

    Attributes:
        model: bundled model, or the name of its folder.
        tp: tensor-parallel size.
        backend: attention backend.
        facts: the machine and software (sorted key, value), among them ``device`` or ``cpu``.
        runs: some may list no steps.
    """

    model: str
    tp: int
    backend: str
    facts: tuple[tuple[str, str], ...]
    runs: tuple[Run, ...]


def save_recording(recording: Recording, path: str | Path) -> None:
    """Write a recording; equal recordings give equal files.

    Raises:
        DoolyError: the file cannot be written.
    """
    content = {
        "format": FORMAT,
        "model": recording.model,
        "tp": recording.tp,
        "backend": recording.backend,
        "facts": dict(recording.facts),
        "runs": [_run_fields(run) for run in recording.runs],
    }
    text = json.dumps(content, separators=(",", ":"))
    write_bytes(path, gzip.compress(text.encode("utf-8"), mtime=0))


def _run_fields(run: Run) -> dict[str, Any]:
    return {
        "trace": run.trace,
        "settings": asdict(run.settings),
        "clipped": run.clipped,
        "wall_s": round(run.wall_s, 3),
        "date": dict(run.facts).get("date", ""),
        "unlisted": run.unlisted,
        "requests": [[_rounded(value) for value in astuple(request)] for request in run.requests],
        "steps": {
            "start_s": [round(step.start_s, 7) for step in run.steps],
            **{name: [round(getattr(step, name), 1) for step in run.steps] for name in _TIMES},
            "mode": [step.mode for step in run.steps],
            "padded": [step.padded for step in run.steps],
            "logits": [step.batch.logits for step in run.steps],
            "detail": [[[name, round(us, 1)] for name, us in step.detail] for step in run.steps],
        },
        "spans": to_spans([step.batch.requests for step in run.steps]),
    }


def _rounded(value: float) -> float:
    return value if isinstance(value, int) else round(value, 7)


def load_recording(path: str | Path) -> Recording:
    """Read what `save_recording` wrote.

    Raises:
        SimulationError: the file cannot be read or does not hold a recording.
    """
    with reading(path, "a recording"):
        content: dict[str, Any] = json.loads(read_gzip(path))
        check_format(path, content, FORMAT)
        facts = tuple(sorted((str(name), str(value)) for name, value in content["facts"].items()))
        return Recording(
            model=named(content["model"]),
            tp=whole(content["tp"]),
            backend=str(content["backend"]),
            facts=facts,
            runs=tuple(_run(named(content["model"]), facts, fields) for fields in content["runs"]),
        )


def _run(model: str, facts: Sequence[tuple[str, str]], fields: dict[str, Any]) -> Run:
    date = str(fields["date"])
    return Run(
        source="measured",
        model=model,
        trace=str(fields["trace"]),
        settings=EngineSettings(**fields["settings"]),
        clipped=whole(fields["clipped"]),
        requests=tuple(RequestRecord.read(row) for row in fields["requests"]),
        steps=tuple(_steps(fields["steps"], fields["spans"])),
        wall_s=finite(fields["wall_s"]),
        facts=tuple(sorted({**dict(facts), "date": date}.items())) if date else tuple(facts),
        unlisted=(whole(fields["unlisted"][0]), whole(fields["unlisted"][1])),
    )


def _steps(columns: dict[str, Any], spans: Sequence[Any]) -> list[StepRecord]:
    rows = [(whole(first), whole(new), whole(cached), whole(count)) for first, new, cached, count in spans]
    batches = from_spans(rows, len(columns["start_s"]))
    return [
        StepRecord(
            start_s=finite(columns["start_s"][place]),
            batch=Batch(tuple(pairs), whole(columns["logits"][place])),
            **{name: finite(columns[name][place]) for name in _TIMES},
            mode=str(columns["mode"][place]),
            padded=whole(columns["padded"][place]),
            detail=tuple((str(name), finite(us)) for name, us in columns["detail"][place]),
        )
        for place, pairs in enumerate(batches)
    ]
