"""A recording of `vllm serve` under loads: requests as the client saw them, the server's counts, the engine's steps.

One file of compressed JSON.  Seconds are kept to a microsecond, since the first request of the load was sent.
"""

import gzip
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dooly.engine.client import ServedRequest
from dooly.engine.loads import Load
from dooly.engine.step_log import LoggedStep
from dooly.errors import SimulationError
from dooly.evaluate.spans import from_spans, to_spans
from dooly.files import read_gzip, write_bytes
from dooly.simulate.reading import check_format, reading

__all__ = ["Served", "ServedLoad", "load_served", "save_served"]

FORMAT = "dooly-served 1"
_MOMENTS = ("start_s", "scheduled_s", "called_s", "issued_s", "ready_s", "end_s")


@dataclass(frozen=True)
class ServedLoad:
    """One run of vLLM's client.

    Attributes:
        load: what it was told.
        seed: of its prompts, lengths and arrivals.
        turn: 0, or higher where the load was repeated.
        result: numbers of the client's own result by its key.
        counts: what the server counted meanwhile, by name of its metric.
        requests: in the client's order.
        steps: of the engine core, numbered by `requests`; moments since the first request was sent.
    """

    load: Load
    seed: int
    turn: int
    result: tuple[tuple[str, float], ...]
    counts: tuple[tuple[str, float], ...]
    requests: tuple[ServedRequest, ...]
    steps: tuple[LoggedStep, ...]


@dataclass(frozen=True)
class Served:
    """A server under loads.

    Attributes:
        model: name of its folder.
        config: its config.json, as text.
        flags: of `vllm serve`.
        facts: machine, software, KV cache (sorted name, value).
        loads: one after the other.
    """

    model: str
    config: str
    flags: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    loads: tuple[ServedLoad, ...]

    def without_gaps(self) -> "Served":
        """The same without the gaps between single tokens, which are most of a file."""
        return replace(
            self,
            loads=tuple(
                replace(load, requests=tuple(replace(request, gaps_us=()) for request in load.requests))
                for load in self.loads
            ),
        )


def save_served(served: Served, path: str | Path) -> None:
    """Write a recording; equal recordings give equal files.

    Raises:
        DoolyError: the file cannot be written.
    """
    content = {
        "format": FORMAT,
        "model": served.model,
        "config": json.loads(served.config),
        "flags": served.flags,
        "facts": dict(served.facts),
        "loads": [_load_fields(load) for load in served.loads],
    }
    text = json.dumps(content, separators=(",", ":"))
    write_bytes(path, gzip.compress(text.encode("utf-8"), mtime=0))


def _load_fields(load: ServedLoad) -> dict[str, Any]:
    steps = load.steps
    return {
        "load": asdict(load.load),
        "seed": load.seed,
        "turn": load.turn,
        "result": dict(load.result),
        "counts": dict(load.counts),
        "requests": {
            **{name: [getattr(each, name) for each in load.requests] for name in _COUNTED},
            **{name: [_micro(getattr(each, name)) for each in load.requests] for name in _TIMED},
            "gaps_us": [each.gaps_us for each in load.requests],
        },
        "steps": {
            "start_us": [_micro(step.start_s) for step in steps],
            **{
                f"{name}_after_us": [_micro(getattr(step, f"{name}_s") - step.start_s) for step in steps]
                for name in _PARTS
            },
            "device_us": [_tenth(step.device_us) for step in steps],
            "gap_us": [_tenth(step.gap_us) for step in steps],
            "mode": [step.mode for step in steps],
            "padded": [step.padded for step in steps],
            "preempted": [step.preempted for step in steps],
        },
        "spans": to_spans([step.requests for step in steps]),
    }


_COUNTED = ("prompt_tokens", "output_tokens", "cached_tokens")
_TIMED = ("sent_s", "arrived_s", "admitted_s", "sampled_s", "first_token_s", "finish_s")
_PARTS = ("scheduled", "called", "issued", "ready", "end")


def _micro(seconds: float) -> int | None:
    """Whole microseconds; None for what was not seen."""
    return None if math.isnan(seconds) else round(1e6 * seconds)


def _seconds(micro: int | None) -> float:
    return math.nan if micro is None else micro / 1e6


def _tenth(us: float) -> float | None:
    return None if math.isnan(us) else round(us, 1)


def load_served(path: str | Path) -> Served:
    """Read what `save_served` wrote.

    Requests of a step have no names in the file: `numbers` and `admitted` of its steps are empty.

    Raises:
        SimulationError: the file cannot be read or does not hold such a recording.
    """
    with reading(path, "a recording of a server"):
        content: dict[str, Any] = json.loads(read_gzip(path))
        check_format(path, content, FORMAT)
        return Served(
            model=str(content["model"]),
            config=json.dumps(content["config"], indent=2),
            flags=tuple(map(str, content["flags"])),
            facts=tuple(sorted((str(name), str(value)) for name, value in content["facts"].items())),
            loads=tuple(_load(fields) for fields in content["loads"]),
        )


def _load(fields: dict[str, Any]) -> ServedLoad:
    columns = fields["requests"]
    rows = zip(
        *(columns[name] for name in _COUNTED),
        *([_seconds(value) for value in columns[name]] for name in _TIMED),
        (tuple(gaps) for gaps in columns["gaps_us"]),
        strict=True,
    )
    return ServedLoad(
        load=Load(**fields["load"]),
        seed=int(fields["seed"]),
        turn=int(fields["turn"]),
        result=_numbers(fields["result"].items()),
        counts=_numbers(fields["counts"].items()),
        requests=tuple(ServedRequest(*row) for row in rows),
        steps=tuple(_steps(fields["steps"], fields["spans"])),
    )


def _numbers(items: Iterable[tuple[str, Any]]) -> tuple[tuple[str, float], ...]:
    return tuple(sorted((str(name), float(value)) for name, value in items))


def _steps(columns: dict[str, Any], spans: Sequence[Any]) -> list[LoggedStep]:
    starts = columns["start_us"]
    after = zip(*(columns[f"{name}_after_us"] for name in _PARTS), strict=True)
    batches = from_spans([(int(a), int(b), int(c), int(d)) for a, b, c, d in spans], len(starts))
    if len({len(starts), *(len(column) for column in columns.values())}) != 1:
        raise SimulationError("columns of steps differ in length")
    return [
        LoggedStep(
            _seconds(start_us),
            *(_seconds(None if value is None else start_us + value) for value in parts),
            device_us=_given(columns["device_us"][place]),
            gap_us=_given(columns["gap_us"][place]),
            mode=str(columns["mode"][place]),
            padded=int(columns["padded"][place]),
            numbers=(),
            requests=tuple(batches[place]),
            admitted=(),
            preempted=tuple(columns["preempted"][place]),
        )
        for place, (start_us, parts) in enumerate(zip(starts, after, strict=True))
    ]


def _given(us: float | None) -> float:
    return math.nan if us is None else float(us)
